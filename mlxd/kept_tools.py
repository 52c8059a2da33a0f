"""The tools that conversations were given, for requests that go on without any.

A client that compacts its history sends it once more with no tools. Where these stand in front of the messages, all of
them would be computed anew for one answer that calls nothing; so they may be left in the prompt, and calls be banned.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from inference.conversation.span_ledger import Entry, Fate, SpanLedger
from inference.conversation.weaving import RETAINED
from inference.messages import Tool

REMEMBERED: Final = 64
"""Lists of tools, each of up to 100 kB. One that fell out is not kept in a prompt."""

RULE: Final = "tools"
"""What the record of a request calls them by."""


class GivenTools:
    """One per process. By owner and by what they mean, so that nobody meets another's. Lives on the event loop."""

    __slots__ = ("_lists",)

    def __init__(self) -> None:
        self._lists: OrderedDict[tuple[str, bytes], tuple[Tool, ...]] = OrderedDict()

    def keep(self, owner: str, digest: bytes, tools: tuple[Tool, ...]) -> None:
        """`digest` stands for what they mean; the words are those that came first."""
        self._lists.setdefault((owner, digest), tools)
        self._lists.move_to_end((owner, digest))
        while len(self._lists) > REMEMBERED:
            self._lists.popitem(last=False)

    def of(self, owner: str, digest: bytes) -> tuple[Tool, ...]:
        """() for those that nobody remembers."""
        return self._lists.get((owner, digest), ())

    def forget(self) -> None:
        """Lets go of everything: a list does not know which sessions had it."""
        self._lists.clear()


def with_tools(ledger: SpanLedger, tools: Sequence[Tool]) -> SpanLedger:
    """The record of a request in whose prompt these tools stand though it has none."""
    entries = (Entry(RULE, RETAINED, Fate.RETAINED, "", tool.name) for tool in tools)
    return replace(ledger, entries=(*ledger.entries, *entries))

"""What a request says about drifting text, applied before anything else sees its conversation.

Telemetry lines that clients put into prompts (a billing header that changes with every conversation) say nothing to a
model and stand before everything else, so one changed letter makes a prompt of 17k tokens new. They are left out,
counted and listed unless the request or the server says `verbatim`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from django.http import HttpResponse

from inference.conversation.binding import bind
from inference.conversation.span_ledger import Fate, SpanLedger
from inference.conversation.volatile_policy import OMIT, VERBATIM
from inference.errors import InvalidParameter
from inference.messages import Conversation
from mlxd.api import policy

HEADER: Final = "X-Mlxd-Volatile"
POLICIES: Final = {one.name: one for one in (OMIT, VERBATIM)}
OFF_LOOP_BYTES: Final = 256 * 1024
"""Searching half a megabyte takes 3 ms."""


async def settled(
    conversation: Conversation | None, headers: Mapping[str, str], body_bytes: int
) -> tuple[Conversation | None, SpanLedger | None]:
    """The conversation to go on with, and what became of its volatile spans; None for a raw completion.

    Raises `InvalidParameter` for a header that names no policy.
    """
    wish = headers.get(HEADER.lower(), "").strip().lower() or policy.current().volatile
    if wish not in POLICIES:
        raise InvalidParameter(f"The header {HEADER} must be one of: {', '.join(POLICIES)}.", param=HEADER)
    if conversation is None:
        return None, None
    large = body_bytes > OFF_LOOP_BYTES
    chosen = POLICIES[wish]
    bound = await asyncio.to_thread(bind, conversation, policy=chosen) if large else bind(conversation, policy=chosen)
    return bound.conversation, bound.ledger


def omitted(ledger: SpanLedger | None) -> int:
    """How many spans the model does not read."""
    return 0 if ledger is None else ledger.counts.get(Fate.OMITTED, 0)


def tell(response: HttpResponse, ledger: SpanLedger | None) -> None:
    """Which policy was used, and how much was left out by it."""
    if ledger is None:
        return
    count = omitted(ledger)
    response[HEADER] = f"{ledger.policy}; omitted={count}" if count else ledger.policy


def figures(ledger: SpanLedger | None) -> dict[str, str | int]:
    """For the line in the log: what was done, where something was."""
    if ledger is None:
        return {}
    counts: dict[str, str | int] = {"omitted_spans": count} if (count := omitted(ledger)) else {}
    return counts | ({"refused_rules": ",".join(ledger.refused)} if ledger.refused else {})

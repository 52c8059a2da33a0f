"""Sees what becomes of every request: says in words where it left its session, and looks whether all of it was read.

Both are after the fact. Words are found when a verdict passes on its way to the client; whether anything of a request
is missing from its prompt is looked for in one request of many, on a thread of its own, once the answer has begun.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import batched
from typing import Final

import structlog

from inference.cache.verdict import SHARED_BY_ALL_TOKENS, VerdictName
from inference.conversation.difference import Difference, Reading, Why, difference, public_path
from inference.conversation.ledger_check import lost_from
from inference.conversation.turn_chain import Edge, Placed
from inference.events import Admitted, Delta, Event, Finished, Parting, ToolCallDelta
from inference.messages import Conversation, Tool

CHECK_EVERY: Final = 64
"""A check of half a megabyte takes 0.1 s of another core."""
REMEMBERED_SESSIONS: Final = 64
"""Of which the tools are known. A list of tools has up to 100 kB."""
SHOWN_PATHS: Final = 8
DECODED_AT_ONCE: Final = 2048
YIELD_S: Final = 0.0005

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Observed:
    """One request: how its prompt was made (`reading`), what the client `sent`, and where it stands (`placed`)."""

    witness: Witness
    reading: Reading
    sent: Conversation | None = None
    placed: Placed | None = None

    def difference(self, parting: Parting | None) -> Difference | None:
        return None if parting is None else difference(self.reading, parting)


class Witness:
    """One per process. It lives on the event loop. One request in `check_every` is checked, 0: none."""

    def __init__(self, check_every: int = CHECK_EVERY) -> None:
        self._check_every = check_every
        self._begun = 0
        self._counts: Counter[str] = Counter()
        self._tools: OrderedDict[str, tuple[Tool, ...]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "content-check")
        self._check: Future[None] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Since the start. `content_lost` and `exact_key_rejected_by_model_lcp` are 0 where all is well."""
        names = ("content_checked", "content_lost", "exact_key_rejected_by_model_lcp", *Why)
        return {str(name): self._counts[name] for name in names}

    def observe(self, reading: Reading, sent: Conversation | None, placed: Placed | None) -> Observed:
        """A request that is about to be asked."""
        before = None if placed is None else self._tools.get(placed.session)
        return Observed(self, replace(reading, tools_before=before), sent, placed)

    def began(self, seen: Observed) -> None:
        """Its answer has begun."""
        number, self._begun = self._begun, self._begun + 1
        if seen.sent is None or not self._check_every or number % self._check_every:
            return
        if self._check is None or self._check.done():  # one at a time: it must not become a queue
            self._check = self._thread.submit(self._look, seen.reading, seen.sent)

    def ended(self, seen: Observed, verdict: str, found: Difference | None) -> None:
        """Its answer is whole; `verdict` is the store's own."""
        if seen.placed is not None:
            self._tools[seen.placed.session] = seen.reading.conversation.tools
            self._tools.move_to_end(seen.placed.session)
            while len(self._tools) > REMEMBERED_SESSIONS:
                self._tools.popitem(last=False)
        if found is not None and is_diverged(verdict):
            self._counts[found.why] += 1
            self._counts["exact_key_rejected_by_model_lcp"] += _known_and_refused(found, seen.placed)

    def forget(self, session: str) -> None:
        """Lets go of what is remembered of a session."""
        self._tools.pop(session, None)

    def settle(self) -> None:
        """Waits for the check that is under way."""
        if self._check is not None:
            self._check.result()

    def close(self) -> None:
        """No more checks are begun; requests may still pass."""
        self._check_every = 0
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self, reading: Reading, sent: Conversation) -> None:
        try:
            lost = lost_from(_text(reading), sent, reading.spans, reading.spoken, _pause)
        except Exception as error:
            log.error("content_not_checked", error=type(error).__name__)
            return
        self._counts["content_checked"] += 1
        if lost:
            self._counts["content_lost"] += len(lost)
            paths = sorted({public_path(one.path) for one in lost})
            log.error("content_lost", count=len(lost), places=",".join(paths[:SHOWN_PATHS]))


def _pause() -> None:
    time.sleep(YIELD_S)


def _text(reading: Reading) -> str:
    """The text of a prompt. To decode 200,000 ids at once holds Python's lock, and so every stream, for 0.14 s: they
    are taken a few at a time, with a moment for others in between."""
    pieces = []
    for some in batched(reading.prompt.ids, DECODED_AT_ONCE):
        pieces.append(b"".join(map(reading.tokenizer.token_bytes, some)))
        _pause()
    return b"".join(pieces).decode("utf-8", "replace")


class Witnessed:
    """The events of one generation, with verdicts in words. Without an `observed` they pass as they are."""

    __slots__ = ("_begun", "_seen", "_verdict", "difference")

    def __init__(self, seen: Observed | None) -> None:
        self._seen = seen
        self._begun = False
        self._verdict = ""
        self.difference: Difference | None = None

    def told(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """The same events; what is noted on the way never holds them up."""
        seen = self._seen
        if seen is None or (self._begun and not any(map(_ends, events))):
            return events
        try:
            return tuple(self._told(seen, event) for event in events)
        except Exception as error:  # an answer is not lost because its verdict cannot be put in words
            log.error("verdict_not_told", error=type(error).__name__)
            return events

    def ended(self) -> None:
        """All answers are whole."""
        if self._seen is not None:
            self._seen.witness.ended(self._seen, self._verdict, self.difference)

    def _told(self, seen: Observed, event: Event) -> Event:
        match event:
            case Delta() | ToolCallDelta() if not self._begun:
                self._begun = True
                seen.witness.began(seen)
            case Admitted():
                words = self._words(seen, event.verdict, event.parting, event.cached_tokens)
                return replace(event, verdict=words)
            case Finished():
                usage = event.usage
                words = self._words(seen, usage.verdict, usage.parting, usage.cached_tokens)
                return replace(event, usage=replace(usage, verdict=words))
        return event

    def _words(self, seen: Observed, verdict: str, parting: Parting | None, cached_tokens: int) -> str:
        self._verdict = verdict
        if is_diverged(verdict) and seen.placed is not None and seen.placed.edge is Edge.START:
            # Its session holds nothing but side calls, as the title that opencode asks for first: it has left nothing.
            self.difference = None
            name = VerdictName.FIRST_SEEN if cached_tokens < SHARED_BY_ALL_TOKENS else VerdictName.BRANCHED
            return name.value
        if parting is None or self.difference is None or self.difference.token != parting.token:
            self.difference = seen.difference(parting)
        return str(self.difference) if self.difference is not None and is_diverged(verdict) else verdict


def _ends(event: Event) -> bool:
    return type(event) is Finished


def is_diverged(verdict: str) -> bool:
    """Whether a store's verdict says that a prompt left its session: where, is to be said better."""
    return verdict.partition("(")[0] == Why.DIVERGED


def _known_and_refused(found: Difference, placed: Placed | None) -> bool:
    """The field means what it meant in the turn that the request goes on from, and the model reads other tokens, with
    no rule, tool or template to blame: an echo that should have been healed."""
    if placed is None or placed.parent is None or placed.parent.session != placed.session:
        return False
    same = found.message is not None and found.message < placed.known_messages
    return same and bool(found.path) and found.why is Why.DIVERGED and not found.rule

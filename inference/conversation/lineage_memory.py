"""What the model has read in one lineage, remembered by its volatile spans alone: enough to let it read that again.

A record belongs to one lineage and is handed on from turn to turn. It is used for a request only when the request is
proven to go on from it: it echoes a call whose id was made in this lineage, or it names the same session. Equal text
proves nothing; two sessions that began alike would read each other's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from inference.conversation.canonical import bare_id
from inference.conversation.spans import Fragment, VolatileSpan
from inference.messages import Conversation, Message, Role

MIN_PROVING_CHARS = 12
"""Shorter call ids are numbers that a model counted, the same in every conversation."""


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as the model reads it, `at` so many characters outside of spans. `current` is the value last told, None
    when it was told to be gone."""

    rule: str
    at: int
    text: str
    current: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """One message of a lineage. `key` is its meaning without its spans, b"" for a message of mlxd's own.

    `added` is what mlxd stated at its end. `message` is there for messages that are volatile as a whole, and for
    mlxd's own: the client does not send them again.
    """

    key: bytes
    spans: tuple[SeenSpan, ...] = ()
    added: str = ""
    message: Message | None = None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class LineageMemory:
    """`read` is what the model read up to its last answer. `minted` are the ids of the calls it made last, without
    punctuation.

    `session` is the client's own id, "" for none. `began_s` is the Unix time of the lineage's first request, 0.0 before
    there was one: what its template's clock goes on showing. `echoed`: the request at hand is proven to go on from
    here.
    """

    read: tuple[Seen, ...] = ()
    minted: frozenset[str] = frozenset()
    session: str = ""
    began_s: float = 0.0
    echoed: bool = False

    def same_reading(self, other: LineageMemory) -> bool:
        """Whether a request may go on from either: the same was read, and the same would prove it."""
        return (self.read, self.minted, self.session) == (other.read, other.minted, other.session)

    def answered(self, call_ids: Iterable[str], session: str = "") -> LineageMemory:
        """The record to keep of a turn that is finished; `call_ids` are those the client was given.

        Who goes on from a turn with calls sends them back, so they alone prove it. What nothing can prove is not kept.
        """
        made = frozenset(bare for one in call_ids if len(bare := bare_id(one)) >= MIN_PROVING_CHARS)
        kept = replace(self, minted=made or self.minted, session=session or self.session, echoed=False)
        return kept if kept.minted or kept.session else FRESH


FRESH = LineageMemory()


def proven(candidates: Sequence[LineageMemory], conversation: Conversation, session: str = "") -> LineageMemory:
    """Of the records of turns that a request may go on from, oldest first, the one it provably does; else `FRESH`."""
    echoed = {
        bare_id(call.id)
        for message in conversation.messages
        if message.role is Role.ASSISTANT
        for call in message.tool_calls
    }
    fitting = [one for one in candidates if one.minted & echoed or (session and one.session == session)]
    if not fitting:
        return FRESH
    calls = [one for one in fitting if one.minted & echoed]
    return replace((calls or fitting)[-1], echoed=True)


# --- alignment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """One message of the request at hand, on its way to what is read."""

    number: int
    message: Message
    key: bytes
    runs: tuple[Fragment, ...]
    whole: VolatileSpan | None = None

    @property
    def spans(self) -> tuple[Fragment, ...]:
        return tuple(run for run in self.runs if run.span is not None)


@dataclass(frozen=True, slots=True)
class Aligned:
    """A message the model has read, and the same in the request; None where the client does not send it (any more)."""

    seen: Seen
    draft: Draft | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """The request beside what was read. `complete`: all of that is there again, and the next message is an answer."""

    known: tuple[Aligned, ...]
    new: tuple[Draft, ...]
    complete: bool


def align(read: Sequence[Seen], drafts: Sequence[Draft]) -> Alignment:
    known: list[Aligned] = []
    at = 0
    for seen in read:
        draft = drafts[at] if at < len(drafts) else None
        if seen.key and draft is not None and _same(seen, draft):
            known.append(Aligned(seen, draft))
            at += 1
        elif seen.message is not None:
            known.append(Aligned(seen, None))
        else:
            return Alignment(tuple(known), tuple(drafts[at:]), complete=False)
    answered = at < len(drafts) and drafts[at].message.role is Role.ASSISTANT
    return Alignment(tuple(known), tuple(drafts[at:]), complete=answered and bool(read))


def _same(seen: Seen, draft: Draft) -> bool:
    return seen.key == draft.key and (draft.whole is None or (seen.message or draft.message).text == draft.message.text)

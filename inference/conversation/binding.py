"""Late binding: what a model has read of a conversation stays as it was, and what changed since is told at the end.

Each kind of volatile span has its own way. Telemetry is left out. Identifiers of messages seen before in this lineage
are read in the form first seen. Dates, and context that is safe for it, stay where they were read while the request
goes on from an answer of this lineage, and a change is stated in what the client has just added. Everything else is
read as it was sent, and so is all of it when one of the conditions fails. Every span gets an entry in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from inference.conversation.lineage_memory import FRESH, Draft, LineageMemory, Seen, align
from inference.conversation.meaning import Meaning, meaning_of
from inference.conversation.reading import as_sent, follow
from inference.conversation.span_ledger import SpanLedger
from inference.conversation.spans import Found, fragments
from inference.conversation.volatile import RULES, VolatileRule
from inference.conversation.volatile_policy import BIND, VolatilePolicy
from inference.messages import Conversation


@dataclass(frozen=True, slots=True)
class Bound:
    """The conversation to render, the record of what was done, and what to remember when it is answered.

    `origin` has, for each message to render, its number in the request; None for those that are not of it.
    """

    conversation: Conversation
    ledger: SpanLedger
    memory: LineageMemory
    origin: tuple[int | None, ...]

    def renumbered[Value](self, by_message: Mapping[int, Value]) -> dict[int, Value]:
        """What belongs to messages of the request, by their numbers in the conversation to render."""
        return {at: by_message[one] for at, one in enumerate(self.origin) if one is not None and one in by_message}


def bind(
    conversation: Conversation,
    memory: LineageMemory = FRESH,
    policy: VolatilePolicy = BIND,
    *,
    meaning: Meaning | None = None,
    keys: Sequence[bytes] = (),
    rules: Sequence[VolatileRule] = RULES,
    tail_stands: bool = True,
) -> Bound:
    """What to render for a request; `meaning` is its own, where it was read already. `keys` are the digests of its
    messages where the caller knows them better: a healed answer's is that of the turn the model spoke. `tail_stands`:
    a last message that says what it said before need not be read once more, and the template shows the same thoughts
    without it."""
    meaning = meaning or meaning_of(conversation, rules=rules)
    found = meaning.found
    drafts = _drafts(conversation, found, keys or meaning.digests)
    alignment = align(memory.read, drafts)
    named = {rule.name: rule for rule in rules if rule.name not in found.refused}
    follows = memory.echoed and policy.rebind and alignment.complete
    reading = follow(policy, named, alignment, conversation, tail_stands=tail_stands) if follows else None
    if reading is None:
        pins = {one.draft.number: one.seen for one in alignment.known if one.draft is not None}
        reading = as_sent(policy, named, drafts, pins if policy.pin else {})
    ledger = SpanLedger(policy.name, tuple(reading.entries), found.refused, reading.limit_reached)
    rendered = replace(conversation, messages=tuple(reading.messages))
    kept = replace(memory, read=_shared(reading.read, memory.read), echoed=False)
    return Bound(rendered, ledger, kept, tuple(reading.origin))


def _shared(read: Sequence[Seen], before: Sequence[Seen]) -> tuple[Seen, ...]:
    """What was read, with the records there are already: else those of a long session would grow with its square."""
    return tuple(old if old == seen else seen for seen, old in zip_longest(read, before[: len(read)]))


def _drafts(conversation: Conversation, found: Found, keys: Sequence[bytes]) -> list[Draft]:
    drafts = []
    spans = found.by_message(len(conversation.messages))
    for number, (message, own, key) in enumerate(zip(conversation.messages, spans, keys, strict=True)):
        whole = own[0] if own and own[0].whole else None
        drafts.append(Draft(number, message, key, () if whole else tuple(fragments(message, own)), whole))
    return drafts

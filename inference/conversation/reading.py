"""What the model is given to read of one request, message by message, with an account of each volatile span.

Two ways: `follow` goes on from what was read before in the lineage, `as_sent` begins with what the client sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from inference.conversation import statements
from inference.conversation.lineage_memory import Aligned, Alignment, Draft, Seen, SeenSpan
from inference.conversation.span_ledger import Entry, Fate
from inference.conversation.spans import Fragment, VolatileSpan
from inference.conversation.volatile import Kind, VolatileRule
from inference.conversation.volatile_policy import VolatilePolicy
from inference.conversation.weaving import RETAINED, Rules, Run, joined, woven
from inference.messages import Conversation, Message, Role

MAX_RETAINED = 4
"""Whole messages of one rule that stay where they were read though the client dropped them. Any more are left out, and
the answer behind them is computed anew. To take out an earlier one, or all, would compute that answer too, and all that
stands before it: 570 tokens at once on the recorded OpenClaw sessions, if their tails differed, and not 34 to 85."""

RELOCATE_FACTOR = 4
"""A span is only relocated when this many times its own length stands between it and the end of the first turn."""


class Reading:
    """Grows by one message at a time: what to render, where it came from, what to remember and what to account for."""

    def __init__(self, policy: VolatilePolicy, rules: Rules) -> None:
        self.messages: list[Message] = []
        self.origin: list[int | None] = []
        self.read: list[Seen] = []
        self.entries: list[Entry] = []
        self.told: list[str] = []  # what is to be stated, in order
        self.limit_reached = False
        self._retained: Counter[str] = Counter()
        self._policy = policy
        self._rules = rules

    def put(self, message: Message, seen: Seen, number: int | None = None) -> None:
        self.messages.append(message)
        self.origin.append(number)
        self.read.append(seen)

    def note(self, rule: VolatileRule, path: str, fate: Fate, sent: str, read: str) -> None:
        self.entries.append(Entry(rule.name, path, fate, sent, read))

    # --- messages -----------------------------------------------------------------------------------------------

    def whole(self, draft: Draft, span: VolatileSpan) -> None:
        """A message that is volatile as a whole, and is there."""
        self.note(span.rule, span.path, Fate.KEPT, span.text, span.text)
        own = (SeenSpan(span.rule.name, 0, span.text, span.text),)
        self.put(draft.message, Seen(draft.key, own, message=draft.message, rule=span.rule.name), draft.number)

    def retain(self, seen: Seen, superseded: bool) -> None:
        """A message that the client does not send (any more), or one of mlxd's own, where the model read it."""
        assert seen.message is not None
        if not seen.rule:
            self.put(seen.message, seen)
            return
        if seen.rule not in self._rules:  # remembered by an earlier version
            return
        if self._retained[seen.rule] == MAX_RETAINED:
            self.limit_reached = True
            return
        self._retained[seen.rule] += 1
        rule, own = self._rules[seen.rule], seen.spans[0]
        self.note(rule, RETAINED, Fate.RETAINED, "", own.text)
        if own.current is not None and not superseded:
            self.told.append(statements.gone(rule, own.text))
        self.put(_retained(seen.message), replace(seen, spans=(replace(own, current=None),)))

    def message(
        self, draft: Draft, seen: Seen | None, *, follows: bool, relocates: frozenset[str] = frozenset()
    ) -> None:
        """A message of the request; `seen`: the same message, read before. A relocated span leaves a pointer."""
        added = seen.added if seen is not None and follows else ""
        if not draft.spans and not (seen and seen.spans):  # most messages
            self._finish(draft, None, (), added)
            return
        before = dict(enumerate(seen.spans if seen else ()))
        places: dict[tuple[str, int], list[int]] = {}
        for at, old in reversed(before.items()):
            places.setdefault((old.rule, old.at), []).append(at)
        runs: list[tuple[Fragment, SeenSpan | None]] = []
        for run in draft.runs:
            one = None
            if run.span is not None:
                same = places.get((run.span.rule.name, run.at))
                match = before.pop(same.pop()) if same else None
                one = self._present(run.span, run.at, match, follows, run.span.rule.name in relocates)
            runs.append((run, one))
        missing = [old for old in before.values() if self._stays(old, follows)]
        texts, spans = woven(runs, missing, self._rules)
        self._finish(draft, texts, spans, added)

    def _finish(self, draft: Draft, texts: list[Run] | None, spans: tuple[SeenSpan, ...], added: str) -> None:
        message = draft.message if texts is None else replace(draft.message, parts=joined(texts))
        if not message.parts and draft.message.parts and not added:  # there was nothing but telemetry in it
            self.read.append(Seen(draft.key))
            return
        if added:
            message = replace(message, parts=(*message.parts, statements.part(added)))
        self.put(message, Seen(draft.key, spans, added), draft.number)

    def state(self, statement: str) -> None:
        """At the end of the message put last."""
        message, seen = self.messages[-1], self.read[-1]
        self.messages[-1] = replace(message, parts=(*message.parts, statements.part(statement)))
        self.read[-1] = replace(seen, added=statement)

    def stand(self, seen: Seen, tail: VolatileSpan) -> None:
        """A message that the client moved to the end, unchanged: read where it was read before, and not once more."""
        assert seen.message is not None
        self._retained[seen.rule] += 1
        self.note(tail.rule, tail.path, Fate.PINNED, tail.text, seen.message.text)
        self.put(_retained(seen.message), seen)

    # --- spans --------------------------------------------------------------------------------------------------

    def _present(
        self, span: VolatileSpan, at: int, seen: SeenSpan | None, follows: bool, relocates: bool
    ) -> SeenSpan | None:
        """What is read for a span that was sent; None for nothing."""
        rule, sent = span.rule, span.text
        read, current, fate = sent, sent, Fate.KEPT
        if rule.kind is Kind.TELEMETRY and self._policy.omit:
            self.note(rule, span.path, Fate.OMITTED, sent, "")
            return None
        if seen is not None and rule.kind is Kind.IDENTIFIER and self._policy.pin:
            read, fate = seen.text, _unless_same(sent, seen.text, Fate.PINNED)
        elif seen is not None and follows and self._policy.rebinds(rule):
            read = seen.text
            moved = Fate.RELOCATED if read == statements.pointer(rule) else Fate.RESTATED
            fate = _unless_same(sent, read, moved)
            if seen.current is None or sent.strip() != seen.current.strip():
                fate = Fate.RESTATED
                self.told.append(statements.changed(rule, seen.current or seen.text, sent))
        elif relocates:
            read, fate = statements.pointer(rule), Fate.RELOCATED
            self.told.append(statements.relocated(rule, sent))
        self.note(rule, span.path, fate, sent, read)
        return SeenSpan(rule.name, at, read, current)

    def _stays(self, old: SeenSpan, follows: bool) -> bool:
        """Whether a span that the client dropped from a message is still read there; if so it is accounted for."""
        rule = self._rules.get(old.rule)
        if rule is None:
            return False
        pinned = rule.kind is Kind.IDENTIFIER and self._policy.pin
        if not pinned and not (follows and self._policy.rebinds(rule)):
            return False
        if not pinned and old.current is not None:
            self.told.append(statements.gone(rule, old.current))
        self.note(rule, RETAINED, Fate.RETAINED, "", old.text)
        return True


def follow(
    policy: VolatilePolicy, rules: Rules, alignment: Alignment, conversation: Conversation, *, tail_stands: bool = True
) -> Reading | None:
    """All that was read before as it was, then what is new with the changes stated in it.

    None when something has to be stated and there is no place for it.
    """
    reading = Reading(policy, rules)
    returns = {draft.whole.rule.name for draft in alignment.new if draft.whole is not None}
    standing, tail = _standing(policy, alignment) if tail_stands else (None, None)
    for one in alignment.known:
        if tail is not None and one is standing:
            reading.stand(one.seen, tail)
        elif one.draft is None:
            reading.retain(one.seen, superseded=one.seen.rule in returns)
        elif one.draft.whole is not None:
            reading.whole(one.draft, one.draft.whole)
        else:
            reading.message(one.draft, one.seen, follows=True)
    spot = statements.spot(alignment.new, conversation)
    if reading.told and spot is None:
        return None
    statement = "\n".join(reading.told)
    for draft in alignment.new:
        if draft.whole is not None:
            if draft.whole is not tail:
                reading.whole(draft, draft.whole)
            continue
        reading.message(draft, None, follows=True)
        if statement and spot is not None and spot.number == draft.number:
            reading.state(statement)
    if statement and spot is not None and spot.number is None:
        own = statements.own_message(statement)
        reading.put(own, Seen(b"", message=own))
    return reading


def _standing(policy: VolatilePolicy, alignment: Alignment) -> tuple[Aligned | None, VolatileSpan | None]:
    """The tail of the request, and where the model has read that very text already: in the last message of its rule,
    which is gone from its place and has not been told to be gone. Both or none.

    Only behind something else that is new, for the model has to be asked something; and only where that message may
    stay once the text does change, for to take it out then would compute all that was said since.
    """
    *before, tail = alignment.new
    if tail.whole is None or not before or not policy.rebinds(tail.whole.rule):
        return None, None
    asked = before[-1].message.role is not Role.ASSISTANT and all(draft.whole is None for draft in before)
    read = [one for one in alignment.known if one.seen.rule == tail.whole.rule.name]
    stays = sum(one.draft is None for one in read) <= MAX_RETAINED
    if not asked or not stays or not read or not _is_read(read[-1], tail):
        return None, None
    return read[-1], tail.whole


def _is_read(one: Aligned, tail: Draft) -> bool:
    seen = one.seen
    if one.draft is not None or seen.message is None or seen.spans[0].current is None:
        return False
    return seen.message.text == tail.message.text


def as_sent(policy: VolatilePolicy, rules: Rules, drafts: Sequence[Draft], pins: Mapping[int, Seen]) -> Reading:
    """Every message where the client sent it, telemetry left out, identifiers pinned, and what may be relocated
    stated at the end of the first turn."""
    reading = Reading(policy, rules)
    end = statements.first_turn_end(drafts)
    for draft in drafts:
        if draft.whole is not None:
            reading.whole(draft, draft.whole)
            continue
        moves = policy.relocate if end is not None and draft.number <= end else frozenset()
        moves = frozenset(name for name in moves if _worth_moving(name, draft, drafts, end or 0))
        reading.message(draft, pins.get(draft.number), follows=False, relocates=moves)
        if reading.told and draft.number == end:
            reading.state("\n\n".join(reading.told))
    return reading


def _worth_moving(name: str, draft: Draft, drafts: Sequence[Draft], end: int) -> bool:
    own = [run for run in draft.spans if run.span is not None and run.span.rule.name == name]
    if not own:
        return False
    behind = sum(len(run.text) for run in draft.runs if run.span is None and run.at >= own[-1].at)
    behind += sum(len(other.message.text) for other in drafts[draft.number + 1 : end])
    return behind > RELOCATE_FACTOR * sum(len(run.text) for run in own)


# --- what it says -----------------------------------------------------------------------------------------------


def _unless_same(sent: str, read: str, fate: Fate) -> Fate:
    return Fate.KEPT if sent.strip() == read.strip() else fate


def _retained(message: Message) -> Message:
    return replace(message, parts=tuple(replace(part, path=RETAINED) for part in message.parts), path=RETAINED)

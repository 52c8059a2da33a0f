"""Finds the volatile spans of a conversation, and shows it without them: the form in which histories are compared.

A rule that would take a large share of a prompt is refused for that prompt: it has matched more than it was made for,
and what it found is content again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from inference.conversation.matchers import Range
from inference.conversation.volatile import RULES, WRAPPERS, Place, Unit, VolatileRule
from inference.messages import Conversation, Message, Role, TextPart

GUARD_SHARE, GUARD_CHARS = 0.10, 2000
"""A rule is refused above both; rules for whole messages are exempt, for they match by structure alone."""
MAX_IN_PART = 100
"""A text in which a rule finds more is no client's own writing; all of these are content."""


@dataclass(frozen=True, slots=True)
class VolatileSpan:
    """`start` to `stop` of the text of part `part` of message `message`; of a whole message, of all its text.

    `path` is the place in the request's body.
    """

    rule: VolatileRule
    message: int
    part: int
    start: int
    stop: int
    text: str
    path: str

    @property
    def whole(self) -> bool:
        return self.rule.scope.unit is Unit.MESSAGE


@dataclass(frozen=True, slots=True)
class Found:
    """In the order of the conversation; no two overlap. `refused` are rules that matched too much.

    `matched` are also the spans of refused rules: histories are compared without them, because a rule may be refused
    for a short prompt and not for the longer one that goes on from it.
    """

    spans: tuple[VolatileSpan, ...] = ()
    refused: tuple[str, ...] = ()
    matched: tuple[VolatileSpan, ...] = ()

    def by_message(self, messages: int) -> list[tuple[VolatileSpan, ...]]:
        return _grouped(self.spans, messages)

    def matched_by_message(self, messages: int) -> list[tuple[VolatileSpan, ...]]:
        return _grouped(self.matched, messages)


def _grouped(spans: Sequence[VolatileSpan], messages: int) -> list[tuple[VolatileSpan, ...]]:
    grouped: list[list[VolatileSpan]] = [[] for _ in range(messages)]
    for span in spans:
        grouped[span.message].append(span)
    return [tuple(one) for one in grouped]


@dataclass(frozen=True, slots=True)
class Fragment:
    """A run of a message's text that is one span, or lies between spans. `at` counts the characters of no span that
    stand before it in the message, so it is the same whatever the spans say."""

    text: str
    path: str
    part: int
    at: int
    span: VolatileSpan | None = None


def find(conversation: Conversation, rules: Sequence[VolatileRule] = RULES) -> Found:
    """All spans of these rules. Structural rules come before those of lines; the earlier rule has a text first."""
    spans: list[VolatileSpan] = []
    head = True
    for number, message in enumerate(conversation.messages):
        head = head and message.role is Role.SYSTEM
        if message.role in (Role.SYSTEM, Role.USER):
            spans += _in_message(number, message, head, rules)
    return _guarded(spans, sum(len(message.text) for message in conversation.messages))


def _in_message(number: int, message: Message, head: bool, rules: Sequence[VolatileRule]) -> list[VolatileSpan]:
    path = message.path or f"messages[{number}]"
    text, places = message.text, _places(message.role, "", head)
    for rule in rules:
        if rule.scope.unit is Unit.MESSAGE and places & rule.scope.places and rule.covers(text):
            return [VolatileSpan(rule, number, -1, 0, len(text), text, path)]
    return [
        VolatileSpan(rule, number, at, start, stop, part.text[start:stop], part.path or f"{path}.content")
        for at, part in enumerate(message.parts)
        for start, stop, rule in _in_part(part.text, _places(message.role, part.text, head), rules)
    ]


def _places(role: Role, text: str, head: bool) -> set[Place]:
    if role is Role.SYSTEM:
        return {Place.SYSTEM, Place.HEAD} if head else {Place.SYSTEM}
    return {Place.USER, Place.WRAPPED} if text.lstrip().startswith(WRAPPERS) else {Place.USER}


def _in_part(text: str, places: set[Place], rules: Sequence[VolatileRule]) -> list[tuple[int, int, VolatileRule]]:
    taken: list[tuple[int, int, VolatileRule]] = []
    for unit in (Unit.PART, Unit.LINES):
        for rule in rules:
            if rule.scope.unit is not unit or not places & rule.scope.places:
                continue
            found = list(islice(rule.matcher(text), MAX_IN_PART + 1))
            if len(found) <= MAX_IN_PART:
                free = (at for at in found if all(at[1] <= start or at[0] >= stop for start, stop, _ in taken))
                taken += [(*at, rule) for at in free]
    return sorted(taken, key=lambda one: one[0])


def _guarded(spans: list[VolatileSpan], total_chars: int) -> Found:
    chars: Counter[str] = Counter()
    for span in spans:
        chars[span.rule.name] += 0 if span.whole else len(span.text)
    refused = {name for name, count in chars.items() if count > GUARD_CHARS and count > GUARD_SHARE * total_chars}
    kept = tuple(span for span in spans if span.rule.name not in refused)
    return Found(kept, tuple(sorted(refused)), tuple(spans))


def fragments(message: Message, spans: Sequence[VolatileSpan]) -> list[Fragment]:
    """A message's text as runs, spans apart. Joined, they are its text."""
    result: list[Fragment] = []
    by_part: defaultdict[int, list[VolatileSpan]] = defaultdict(list)
    for span in spans:
        by_part[span.part].append(span)
    outside = 0
    for number, part in enumerate(message.parts):
        at = 0
        for span in by_part[number]:
            result += _plain(part, number, (at, span.start), outside)
            outside += span.start - at
            result.append(Fragment(span.text, part.path, number, outside, span))
            at = span.stop
        result += _plain(part, number, (at, len(part.text)), outside)
        outside += len(part.text) - at
    return result


def _plain(part: TextPart, number: int, place: Range, at: int) -> list[Fragment]:
    text = part.text[slice(*place)]
    return [Fragment(text, part.path, number, at)] if text else []


def without(message: Message, spans: Sequence[VolatileSpan]) -> Message:
    """A message without these spans; of one that is volatile as a whole, the name of its rule is left."""
    if not spans:
        return message
    if spans[0].whole:
        return replace(message, parts=(TextPart(f"\0{spans[0].rule.name}"),))
    kept = (TextPart(one.text, one.path) for one in fragments(message, spans) if one.span is None)
    return replace(message, parts=tuple(kept))

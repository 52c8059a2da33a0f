"""A conversation without some of its volatile spans: what is compared of drifting requests.

Which texts are volatile says the table of rules; they are cut out here by their places alone, whole lines with their
line feeds, so that two requests that differ in nothing else become the same text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from inference.conversation.spans import VolatileSpan, find
from inference.conversation.volatile import Kind
from inference.messages import Conversation, Message, TextPart

type Place = tuple[int, str, int]
"""Where a value stands, whatever it says: the message among those that are no span as a whole, the rule, and which of
that rule's spans in it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a conversation. `origin` has the number that each message had."""

    conversation: Conversation
    origin: tuple[int, ...]


def cut(conversation: Conversation, spans: Collection[VolatileSpan]) -> Cut:
    """Without these spans; messages of which nothing is left are gone."""
    by_message: dict[int, list[VolatileSpan]] = {}
    for span in spans:
        by_message.setdefault(span.message, []).append(span)
    kept: list[Message] = []
    origin: list[int] = []
    for number, message in enumerate(conversation.messages):
        left = _without(message, by_message[number]) if number in by_message else message
        if left is not None:
            kept.append(left)
            origin.append(number)
    return Cut(replace(conversation, messages=tuple(kept)), tuple(origin))


def telemetry(spans: Collection[VolatileSpan]) -> list[VolatileSpan]:
    return [span for span in spans if span.rule.kind is Kind.TELEMETRY]


def spans_of(conversation: Conversation) -> tuple[VolatileSpan, ...]:
    """Every volatile span of the table's rules."""
    return find(conversation).spans


def values(spans: Collection[VolatileSpan], before: int) -> Mapping[Place, str]:
    """What the spans of the first messages say: dates, and what clients tell of their surroundings."""
    whole = sorted({span.message for span in spans if span.whole})
    found: dict[Place, str] = {}
    for span in spans:
        if span.message >= before or span.whole or span.rule.kind not in (Kind.CLOCK, Kind.CONTEXT):
            continue
        number = span.message - sum(one < span.message for one in whole)
        count = sum(place[:2] == (number, span.rule.name) for place in found)
        found[number, span.rule.name, count] = span.text.strip()
    return found


def _without(message: Message, spans: Sequence[VolatileSpan]) -> Message | None:
    if any(span.whole for span in spans):
        return None
    parts: list[TextPart] = []
    for number, part in enumerate(message.parts):
        text = part.text
        for span in sorted((one for one in spans if one.part == number), key=lambda one: -one.start):
            text = text[: span.start] + text[span.stop :]
        if text:
            parts.append(replace(part, text=text))
    return replace(message, parts=tuple(parts)) if parts else None

"""Looks in the text of a prompt for everything a client said. It knows neither the renderer nor what it kept note of.

A text counts as read when it stands between its neighbours: behind what came before it in the conversation, and before
the next long text that occurs only once. Excused is only what the span ledger accounts for, and only when the rule it
names really finds that text there. Reasoning is left out: templates drop it, and what they drop is counted elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from inference.conversation.dress import parse_arguments
from inference.conversation.patient_search import Searched, as_json
from inference.conversation.span_ledger import Entry, Fate, SpanLedger
from inference.conversation.spans import find
from inference.conversation.volatile import Kind
from inference.messages import Conversation, Message, Role
from inference.ports import Tokenizer
from inference.tokens import Prompt

_ANCHOR_CHARS = 40


@dataclass(frozen=True, slots=True)
class Lost:
    """A text of the request that the model does not read."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    text: str
    path: str


def content_lost(
    tokenizer: Tokenizer,
    prompt: Prompt,
    conversation: Conversation,
    ledger: SpanLedger | None = None,
    spoken: Collection[int] = (),
) -> tuple[Lost, ...]:
    """What of a request is not in its prompt. `spoken` are its messages that are read as the model spoke them: their
    arguments may be spelled in other ways."""
    return lost_from(tokenizer.decode(prompt.ids), conversation, ledger, spoken)


def lost_from(
    read: str,
    conversation: Conversation,
    ledger: SpanLedger | None = None,
    spoken: Collection[int] = (),
    pause: Callable[[], None] = lambda: None,
) -> tuple[Lost, ...]:
    """As `content_lost`, for the text of a prompt. `pause` is called often: for others to have their turn."""
    text = Searched(read, pause)
    excused = _excused(conversation, ledger) if ledger else {}
    loose = [*_tool_texts(conversation), *_arguments(text, conversation, spoken), *_promised(ledger)]
    instructions: list[_Wanted] = []
    in_order: list[list[_Wanted]] = []
    # Templates gather instructions at the front and put results in the order of their calls.
    for role, run in groupby(enumerate(conversation.messages), key=lambda one: one[1].role):
        wanted = [text for number, message in run for text in _texts(number, message, excused)]
        if role is Role.SYSTEM:
            instructions += wanted
        elif wanted:
            in_order.append(wanted)
    counted = Counter(one.text.strip() for one in instructions)
    return (
        *_missing_anywhere(text, loose, {}),
        *_missing_anywhere(text, instructions, counted),
        *_missing_in_order(text, in_order),
    )


# --- what is wanted ---------------------------------------------------------------------------------------------


def _texts(number: int, message: Message, excused: Mapping[str, list[Entry]]) -> Iterator[_Wanted]:
    path = message.path or f"messages[{number}]"
    if any(entry.sent == message.text for entry in excused.get(path, ())):
        return
    for part in message.parts:
        where = part.path or f"{path}.content"
        pieces = [part.text]
        for entry in excused.get(where, ()):
            pieces = _cut(pieces, entry.sent)
        yield from (_Wanted(piece, where) for piece in pieces)


def _cut(pieces: list[str], text: str) -> list[str]:
    """The pieces without the first place where this text stands."""
    for at, piece in enumerate(pieces):
        if text in piece:
            return [*pieces[:at], *piece.split(text, 1), *pieces[at + 1 :]]
    return pieces


def _tool_texts(conversation: Conversation) -> Iterator[_Wanted]:
    for at, tool in enumerate(conversation.tools):
        yield from (_Wanted(text, tool.path or f"tools[{at}]") for text in (tool.name, tool.description))


def _arguments(text: Searched, conversation: Conversation, spoken: Collection[int]) -> Iterator[_Wanted]:
    """Names and arguments of calls: as they were sent, else value by value."""
    for number, message in enumerate(conversation.messages):
        for at, call in enumerate(message.tool_calls if number not in spoken else ()):
            path = f"{message.path or f'messages[{number}]'}.tool_calls[{at}]"
            yield _Wanted(call.name, path)
            if not any(text.find(form) >= 0 for form in _forms(call.arguments)):
                yield from (_Wanted(leaf, path) for leaf in _leaves(call.arguments))


def _leaves(arguments: str) -> Iterator[str]:
    """Texts and numbers in the JSON of a call; what is no JSON object is one text."""
    parsed = parse_arguments(arguments)
    stack: list[Any] = [arguments if parsed is None else parsed]
    while stack:
        match stack.pop():
            case dict() as value:
                stack += [*value.keys(), *value.values()]
            case list() as value:
                stack += value
            case str() as value:
                yield value
            case int() as value if not isinstance(value, bool):
                yield str(value)


def _promised(ledger: SpanLedger | None) -> Iterator[_Wanted]:
    """What the ledger says is read somewhere else, or still."""
    for entry in ledger.entries if ledger else ():
        if entry.fate in (Fate.RESTATED, Fate.RELOCATED):
            yield _Wanted(entry.sent, entry.path)
        elif entry.fate in (Fate.PINNED, Fate.RETAINED):
            yield _Wanted(entry.read, entry.path)


def _excused(conversation: Conversation, ledger: SpanLedger) -> dict[str, list[Entry]]:
    """Entries for text that need not stand in its place, by path; a claim that no rule bears out there is none."""
    kinds = {
        Fate.OMITTED: {Kind.TELEMETRY},
        Fate.PINNED: {Kind.IDENTIFIER, Kind.CONTEXT},
        Fate.RESTATED: {Kind.CLOCK, Kind.CONTEXT},
        Fate.RELOCATED: {Kind.CLOCK, Kind.CONTEXT},
    }
    borne_out = {(span.rule.name, span.path, span.text): span.rule.kind for span in find(conversation).spans}
    excused: dict[str, list[Entry]] = {}
    for entry in ledger.entries:
        kind = borne_out.get((entry.rule, entry.path, entry.sent))
        other = entry.fate is Fate.PINNED and kind is Kind.CONTEXT and entry.read != entry.sent
        if kind in kinds.get(entry.fate, ()) and not other:
            excused.setdefault(entry.path, []).append(entry)
    return excused


# --- what is there ----------------------------------------------------------------------------------------------


def _missing_anywhere(text: Searched, wanted: Sequence[_Wanted], times: Mapping[str, int]) -> list[Lost]:
    """Those that do not occur as often as they must, which is once unless `times` says otherwise."""
    return [
        Lost(one.path, one.text)
        for one in wanted
        if not any(text.holds(form, times.get(one.text.strip(), 1)) for form in _forms(one.text))
    ]


def _missing_in_order(text: Searched, groups: Sequence[Sequence[_Wanted]]) -> list[Lost]:
    limits = _limits(text, groups)
    lost: list[Lost] = []
    cursor = 0
    for group, limit in zip(groups, limits, strict=True):
        ends = [cursor]
        needed = Counter(one.text.strip() for one in group)
        for one in group:
            # The form that comes first: a result may stand there as JSON, and the same text as it is further on.
            places = [(at, form) for form in _forms(one.text) if (at := text.find(form, cursor, limit)) >= 0]
            at, form = min(places, default=(cursor, None))
            if form is None or not text.holds(form, needed[one.text.strip()], cursor, limit):
                lost.append(Lost(one.path, one.text))
            else:
                ends.append(at + len(form))
            text.pause()
        cursor = max(ends)
    return lost


def _limits(text: Searched, groups: Sequence[Sequence[_Wanted]]) -> list[int]:
    """For each group, where the next group begins that has a long text which is wanted and occurs only once."""
    wanted = Counter(one.text.strip() for group in groups for one in group)
    limits: list[int] = []
    limit = len(text.text)
    for group in reversed(groups):
        limits.append(limit)
        long = (plain for one in group if len(plain := one.text.strip()) >= _ANCHOR_CHARS and wanted[plain] == 1)
        limit = min([limit, *(text.find(plain) for plain in long if text.holds(plain, 1) and not text.holds(plain, 2))])
    return limits[::-1]


def _forms(text: str) -> Iterator[str]:
    """As it is, as JSON, and as JSON inside of JSON; line feeds as the renderer sets them, blanks around it aside."""
    plain = text.replace("\r\n", "\n").strip()
    for _ in range(3):
        yield plain
        yield as_json(plain, ascii_only=True)
        plain = as_json(plain, ascii_only=False)

"""A conversation as the renderer works on it: every run of text knows the message and the path it came from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference.conversation.sentinels import Text
from inference.messages import Conversation, Message, Role

ThinkTags = tuple[str, str]
_NO_NAME = Text("")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call in an assistant turn. `arguments` is the client's text, JSON or not."""

    id: str
    name: str
    arguments: Text
    path: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message on its way to the template; adapting may split, merge or re-word it.

    `name` is the function a result came from, as the client says or as the call with its id says.
    """

    role: Role
    parts: tuple[Text, ...] = ()
    reasoning: tuple[Text, ...] = ()
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    name: Text = _NO_NAME
    path: str = ""
    message: int = -1

    @property
    def has_text(self) -> bool:
        return any(part.text for part in self.parts)

    def retold(self, role: Role, *parts: Text) -> Turn:
        """The same message as plain text in another role."""
        return Turn(role, parts, path=self.path, message=self.message)


def turns_of(conversation: Conversation, think: ThinkTags | None, counts: Counter[str]) -> list[Turn]:
    """The turns as the client wrote them: CRLF as LF, a leading think block of the model's own kind taken apart."""
    turns: list[Turn] = []
    names: dict[str, Text] = {}
    for number, message in enumerate(conversation.messages):
        turn = turn_of(message, number, think, counts)
        names |= names_given(turn)
        if turn.role is Role.TOOL and not turn.name.text and turn.call_id in names:
            turn = replace(turn, name=names[turn.call_id])
        turns.append(turn)
    return turns


def names_given(turn: Turn) -> dict[str, Text]:
    """The functions that a turn calls, by the ids of the calls."""
    return {call.id: Text(call.name, f"{call.path}.function.name", turn.message) for call in turn.calls}


def turn_of(message: Message, number: int, think: ThinkTags | None, counts: Counter[str]) -> Turn:
    """A message by itself, as in `turns_of`."""
    turn = _turn(message, number, counts)
    return split_think(turn, think, counts) if think else turn


def _turn(message: Message, number: int, counts: Counter[str]) -> Turn:
    path = message.path or f"messages[{number}]"

    def text(value: str, where: str) -> Text:
        return Text(line_feeds(value, counts), where, number)

    calls = (
        Call(call.id, call.name, Text(call.arguments, f"{here}.function.arguments", number), here)
        for at, call in enumerate(message.tool_calls)
        for here in (f"{path}.tool_calls[{at}]",)
    )
    return Turn(
        role=message.role,
        parts=tuple(text(part.text, part.path or f"{path}.content") for part in message.parts if part.text),
        reasoning=(text(message.reasoning, f"{path}.reasoning_content"),) if message.reasoning else (),
        calls=tuple(calls),
        call_id=message.tool_call_id,
        name=Text(message.name, f"{path}.name", number),
        path=path,
        message=number,
    )


def line_feeds(text: str, counts: Counter[str]) -> str:
    """Text with CRLF as LF: a file saved on Windows is the same text to the model and to the cache."""
    if "\r\n" not in text:
        return text
    counts["crlf"] += 1
    return text.replace("\r\n", "\n")


def split_think(turn: Turn, tags: ThinkTags, counts: Counter[str]) -> Turn:
    """Clients that echo raw text send `<think>..</think>answer` as content; the template wants the two apart.

    Only one balanced block at the very start counts. Anything else is text and stays as it is.
    """
    if turn.role is not Role.ASSISTANT or turn.reasoning or not turn.parts:
        return turn
    first, (opener, closer) = turn.parts[0], tags
    whole = "".join(part.text for part in turn.parts)
    if whole.count(opener) != 1 or whole.count(closer) != 1:
        return turn
    found = re.match(rf"\s*{re.escape(opener)}(.*?){re.escape(closer)}", first.text, re.DOTALL)
    if not found:
        return turn
    counts["think_split"] += 1
    rest = replace(first, text=first.text[found.end() :].lstrip("\n"))
    thought = replace(first, text=found[1].strip("\n"))
    parts = ((rest,) if rest.text else ()) + turn.parts[1:]
    return replace(turn, parts=parts, reasoning=(thought,) if thought.text else ())


def joined(groups: Sequence[tuple[Text, ...]]) -> tuple[Text, ...]:
    """Runs of text, a blank line between them, empty ones left out."""
    result: tuple[Text, ...] = ()
    for group in groups:
        if any(part.text for part in group):
            result += ((Text("\n\n"),) if result else ()) + group
    return result

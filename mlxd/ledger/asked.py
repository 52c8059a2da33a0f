"""What a request shows of itself to the lineage: its messages' digests, and those of what was answered.

Thoughts are left out: a client that drops them goes on with the same conversation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from inference.conversation.canonical import message_digest, tools_digest
from inference.conversation.turn_chain import Asked
from inference.conversation.turns import ThinkTags, Turn, turns_of
from inference.events import Channel, Delta, Event, ToolCallDelta
from inference.messages import Conversation, Message, Role, TextPart, ToolCall
from mlxd.ledger.whose import Whose


def asked_of(conversation: Conversation, whose: Whose) -> Asked:
    """A request without its time. Milliseconds for a large one."""
    turns = turns_of(conversation, whose.think, Counter())
    heads = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    return Asked(
        digests=tuple(map(_digest, turns)),
        heads=heads,
        tools=tools_digest(conversation.tools) if conversation.tools else b"",
        session=whose.session,
        named=whose.named,
        owner=whose.owner,
        one_shot=whose.one_shot,
    )


def _digest(turn: Turn) -> bytes:
    return message_digest(replace(turn, reasoning=()) if turn.reasoning else turn)


@dataclass(slots=True)
class Answer:
    """One choice as its client will send it back, put together from its events."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, ToolCall] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)

    def add(self, event: Delta | ToolCallDelta) -> None:
        if isinstance(event, ToolCallDelta):
            self.calls.setdefault(event.index, ToolCall(event.id, event.name, ""))
            self.arguments.setdefault(event.index, []).append(event.arguments)
        elif event.channel is Channel.CONTENT:
            self.texts.append(event.text)

    def digest(self, think: ThinkTags | None) -> bytes:
        text = "".join(self.texts)
        calls = (replace(self.calls[at], arguments="".join(self.arguments[at])) for at in sorted(self.calls))
        said = Message(Role.ASSISTANT, (TextPart(text),) if text else (), tool_calls=tuple(calls))
        (turn,) = turns_of(Conversation((said,)), think, Counter())
        return _digest(turn)


class Answers:
    """All choices of one generation."""

    def __init__(self, choices: int) -> None:
        self._choices = [Answer() for _ in range(choices)]

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Delta | ToolCallDelta):
                self._choices[event.choice].add(event)

    def digests(self, think: ThinkTags | None) -> tuple[bytes, ...]:
        return tuple(answer.digest(think) for answer in self._choices)

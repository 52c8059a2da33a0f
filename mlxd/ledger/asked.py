"""What a request shows of itself to the lineage: its messages' digests, and those of what was answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from inference.conversation.meaning import Meaning, said_digest
from inference.conversation.turn_chain import Asked
from inference.conversation.turns import ThinkTags, turns_of
from inference.events import Channel, Delta, Event, ToolCallDelta
from inference.messages import Conversation, Message, Role, TextPart, ToolCall
from mlxd.ledger.whose import Whose


def asked_of(meaning: Meaning, whose: Whose, digests: Sequence[bytes] = ()) -> Asked:
    """A request without its time. `digests` are those of its messages where they are known better than by `meaning`.

    Messages that are volatile as a whole are left out of its history, unless there is nothing else.
    """
    digests = digests or meaning.digests
    turns = meaning.turns
    heads = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    lasting = tuple(digest for at, digest in enumerate(digests) if at not in meaning.passing)
    return Asked(
        digests=lasting or tuple(digests),
        heads=heads,
        tools=meaning.tools if meaning.conversation.tools else b"",
        session=whose.session,
        named=whose.named,
        owner=whose.owner,
        one_shot=whose.one_shot,
    )


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
        return said_digest(turn)


class Answers:
    """All choices of one generation."""

    def __init__(self, choices: int) -> None:
        self._choices = [Answer() for _ in range(choices)]

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Delta | ToolCallDelta):
                self._choices[event.choice].add(event)

    @property
    def call_ids(self) -> tuple[str, ...]:
        """Of all calls the client was given."""
        return tuple(call.id for answer in self._choices for call in answer.calls.values())

    def digests(self, think: ThinkTags | None) -> tuple[bytes, ...]:
        return tuple(answer.digest(think) for answer in self._choices)

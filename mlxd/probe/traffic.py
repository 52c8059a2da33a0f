"""Recorded sessions played again, with the answers of the server under test in place of those recorded.

Where a recorded request sends an answer back, it sends back what this server answered, changed as that client changes
answers, and results of tools go with the calls that this server made. An answer that this server did not give as asked
(its calls are others, or the request was left out) stays as it was recorded, and is counted as foreign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from inference.conversation.canonical import bare_id
from mlxd.probe import forced
from mlxd.probe.asks import Ask, Message, Play
from mlxd.probe.echo import CLIENTS, Echo
from mlxd.probe.recording import Exchange, Recorded


@dataclass(slots=True)
class Replay:
    """One client's sessions. `fits` says which requests are small enough; the others are left out and counted."""

    recorded: Recorded
    fits: Callable[[Ask], bool]
    max_requests: int | None = None
    left_out: int = 0
    _given: list[tuple[Exchange, Message]] = field(default_factory=list)
    _openings: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def echo(self) -> Echo:
        return CLIENTS.get(self.recorded.client, Echo())

    @property
    def images(self) -> int:
        return sum(one.images for one in self.recorded.exchanges)

    @property
    def note(self) -> str:
        """What was not played, for people."""
        counts = {"requests left out": self.left_out, "of other APIs": self.recorded.others, "images": self.images}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"{self.recorded.client}: not played: {told}" if told else ""

    def play(self) -> Play:
        """One request after the other, as they were recorded."""
        asked = 0
        for exchange in self.recorded.exchanges:
            ask = self.ask(exchange)
            if asked == self.max_requests or not self.fits(ask):
                self.left_out += 1
                continue
            asked += 1
            (answer,) = yield [ask]
            if exchange.said is not None and forced.obeyed(exchange.said, answer):
                self._given.append((exchange, answer))

    def ask(self, exchange: Exchange) -> Ask:
        """A recorded request with the answers that this server gave."""
        sent: list[Message] = []
        meant: list[Message] = []
        ids: dict[str, str] = {}
        foreign = 0
        for at, message in enumerate(exchange.messages):
            own = self._given_for(exchange, at) if message["role"] == "assistant" else None
            foreign += message["role"] == "assistant" and own is None
            if own is not None:
                ids |= _renamed(message, own)
            before = ids.get(bare_id(message.get("tool_call_id") or ""))
            meant.append(own or (message | {"tool_call_id": before} if before else message))
            sent.append(self._sent(meant[-1], own, before))
        session = f"{exchange.session} {self._opening(exchange)}"
        return Ask(session, tuple(sent), tuple(meant), {**exchange.fields, **forced.THOUGHT}, exchange.said, foreign)

    def _sent(self, message: Message, own: Message | None, call_id: str | None) -> Message:
        if own is not None:
            return self.echo.of(own)
        return message | {"tool_call_id": self.echo.call_id(call_id)} if call_id else message

    def _given_for(self, exchange: Exchange, at: int) -> Message | None:
        """What this server answered where the recorded answer at message `at` was given."""
        return next((own for past, own in reversed(self._given) if echoes(past, exchange, at)), None)

    def _opening(self, exchange: Exchange) -> int:
        """Which conversation of its session it is: sub-agents and titles begin with other words of the user's."""
        first = next((str(one["content"]) for one in exchange.messages if one["role"] == "user"), "")
        return self._openings.setdefault((exchange.session, first), len(self._openings))


def echoes(past: Exchange, later: Exchange, at: int) -> bool:
    """Whether message `at` of a later request is the answer that was recorded for an earlier one.

    Calls are known by their ids; text by what it is and where it stands, a last message that vanishes aside.
    """
    message, answer = later.messages[at], past.answer
    if answer is None or past.session != later.session:
        return False
    if message.get("tool_calls") or answer.get("tool_calls"):
        return _ids(message) == _ids(answer)
    same = _text(message) == _text(answer)
    return (
        same and at in (len(past.messages), len(past.messages) - 1) and _asked(past, at)[-1:] == _asked(later, at)[-1:]
    )


def _asked(exchange: Exchange, at: int) -> list[str]:
    """What users and tools said up to a message."""
    return [_text(one) for one in exchange.messages[:at] if one["role"] in ("user", "tool")]


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return (content if isinstance(content, str) else "".join(part["text"] for part in content)).strip()


def _ids(message: Message) -> list[str]:
    return [bare_id(call["id"]) for call in message.get("tool_calls") or ()]


def _renamed(message: Message, own: Message) -> dict[str, str]:
    """The ids of a recorded answer's calls, bare, and those that this server gave them."""
    return dict(zip(_ids(message), (call["id"] for call in own.get("tool_calls") or ()), strict=False))

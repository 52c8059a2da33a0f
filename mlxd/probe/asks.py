"""What a conversation of the probe consists of: requests in waves, and the answers that go into the next ones."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

type Message = dict[str, Any]
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Said:
    """An answer that the server is to give: its text, and its calls as (name, arguments to the letter)."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    `session` names the conversation it belongs to, for oracle and report; servers are not told. `meant` are its
    messages with every echoed answer as the server gave it, however the client spells it in `messages`; () where that
    is the same. `fields` are the other fields of the body. `say` is what shall be answered, None for whatever comes.
    `foreign` counts answers in it that came from elsewhere.
    """

    session: str
    messages: tuple[Message, ...]
    meant: tuple[Message, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    say: Said | None = None
    foreign: int = 0

    @property
    def spoken(self) -> tuple[Message, ...]:
        """Its messages, echoes as the server gave them."""
        return self.meant or self.messages


type Wave = Sequence[Ask]
type Play = Generator[Wave, Sequence[Message], None]
"""Yields waves of requests that are to be under way together; is sent the messages that answered them, in order."""

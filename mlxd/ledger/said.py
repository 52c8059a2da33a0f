"""What was said in answer to one request: where an echo of it will be looked for, and the turn itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inference.conversation.spoken import SpokenTurn


@dataclass(frozen=True, slots=True)
class Said:
    """One answer, at its place in the healing store."""

    place: bytes
    turn: SpokenTurn


class Listener(Protocol):
    """Who hears the answers to one request as the model speaks them."""

    async def said(self) -> tuple[Said, ...]:
        """The answers that came to their end since it was asked last. An echo of them is recognised from now on."""

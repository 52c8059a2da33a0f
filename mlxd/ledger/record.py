"""What is known of a generation when it is over, however it ended. Figures and names of ours only."""

from __future__ import annotations

from dataclasses import dataclass

from inference.events import Usage
from inference.tokens import Prompt

_DIVERGED = "diverged("


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a prompt left what was stored for its session: the token, the message it came from, its place there.

    `message` None and `path` "" are the chat template's own text.
    """

    token: int
    message: int | None = None
    path: str = ""

    @classmethod
    def of(cls, prompt: Prompt, verdict: str) -> Divergence | None:
        """As the store's verdict says; None for any other verdict."""
        at = verdict.removeprefix(_DIVERGED).removesuffix(")")
        if not verdict.startswith(_DIVERGED) or not at.isdigit():
            return None
        token, span = int(at), prompt.source.at(int(at))
        behind = [boundary.message for boundary in prompt.boundaries if boundary.token <= token]
        return cls(token, behind[-1] if behind else None, span.path if span else "")


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """`outcome` is a finish reason, the code of an error, or `cancelled`. `began_s` is Unix time."""

    request_id: str
    owner: str
    model: str
    outcome: str
    edge: str
    usage: Usage
    malformed_calls: int
    began_s: float
    total_s: float
    diverged: Divergence | None = None

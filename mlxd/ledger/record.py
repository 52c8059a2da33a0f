"""What is known of a generation when it is over, however it ended."""

from __future__ import annotations

from dataclasses import dataclass

from inference.conversation.difference import Difference
from inference.events import Usage


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """`outcome` is a finish reason, the code of an error, or `cancelled`. `began_s` is Unix time.

    All of it are figures and names of ours, but for the texts in `diverged`. `session` is the one it
    belongs to, or would begin.
    """

    request_id: str
    owner: str
    model: str
    outcome: str
    edge: str
    usage: Usage
    malformed_calls: int
    began_s: float
    total_s: float
    diverged: Difference | None = None
    session: str = ""

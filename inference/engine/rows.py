"""One job on its way through the engine: what was asked, what was drawn, and where its draws stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.engine.sampler import RowSampling
from inference.events import FinishReason
from inference.ports import Job
from inference.tokens import TokenIds


@dataclass(slots=True, eq=False)
class Row:
    """A started job. `alone` rows decode in a lane of their own: they have failed in company once."""

    job: Job
    sampling: RowSampling
    drawn: list[int] = field(default_factory=list)
    alone: bool = False

    @classmethod
    def of(cls, job: Job) -> Row:
        return cls(job, RowSampling(job.sampling, position=len(job.prompt)))

    @property
    def ids(self) -> TokenIds:
        """Prompt and answer so far: what the model has to read before it can draw the next token."""
        return (*self.job.prompt.ids, *self.drawn)

    @property
    def length_tokens(self) -> int:
        return len(self.job.prompt) + len(self.drawn)

    def take(self, token: int) -> tuple[TokenIds, FinishReason | None]:
        """Counts a drawn token: (what the client gets, why the row ends). The token that stops is not shown."""
        if token in self.job.stop_ids:
            return (), FinishReason.STOP
        self.drawn.append(token)
        return (token,), FinishReason.LENGTH if len(self.drawn) >= self.job.max_tokens else None

    def rewind(self) -> None:
        """Forgets draws that ran ahead of `drawn`, so that the row can be computed again and draw the same."""
        self.sampling.position = self.length_tokens

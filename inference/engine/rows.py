"""One job on its way through the engine: what was asked, what was drawn, and where its draws stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.engine.guide import NOTHING, RowGuide
from inference.engine.sampler import RowSampling
from inference.engine.trail import Trail
from inference.events import FinishReason
from inference.ports import Job
from inference.tokens import TokenIds


@dataclass(slots=True, eq=False)
class Row:
    """A started job. `alone` rows decode in a lane of their own: they have failed in company once.

    `read_token` is a token that the next draw already builds on and that nobody was told of yet. `guide` is there
    from the first `rewind` on, where the job has one; `trail`, once it decodes, is its way in the store. A `complete`
    row has given all that its grammar allows and draws the token that ends it, as an answer without a grammar does:
    fed, it is in the store, and a hybrid's last state is one that the next request can go on from.
    """

    job: Job
    sampling: RowSampling
    drawn: list[int] = field(default_factory=list)
    alone: bool = False
    guide: RowGuide | None = None
    read_token: int | None = None
    trail: Trail | None = None
    complete: bool = False

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

    @property
    def ends_next(self) -> bool:
        """The token it takes next is its last, whatever that is."""
        return self.complete or len(self.drawn) + 1 >= self.job.max_tokens

    @property
    def listens(self) -> bool:
        """Its next draw depends on which token the last one was, beyond what the model makes of it."""
        return self.job.guide is not None or self.sampling.has_penalties

    @property
    def is_steered(self) -> bool:
        """Something is done to the logits of its next draw."""
        return self.listens or bool(self.job.sampling.logit_bias) or bool(self.banned_next)

    @property
    def banned_next(self) -> frozenset[int]:
        """Ids that its next draw may not give. A text that is complete ends, however short it is."""
        if self.guide is not None and self.guide.over:
            return NOTHING
        early = self.sampling.position - len(self.job.prompt) < self.job.min_tokens
        banned = self.job.banned_ids | self.job.stop_ids if early else self.job.banned_ids
        return banned if self.guide is None else self.guide.banned | banned

    def recent(self, count: int) -> TokenIds:
        """The last `count` tokens of prompt and answer, with `read_token`."""
        read = () if self.read_token is None else (self.read_token,)
        answer = (*self.drawn[-count:], *read)
        return (*self.job.prompt.ids[-count:], *answer)[-count:]

    def read(self, token: int) -> None:
        """Hears of a token before its next draw; what the guide has against it becomes the row's error."""
        self.read_token = token
        if self.guide is None or self.complete or token in self.job.stop_ids:
            return
        try:
            self.guide.advance(token)
        except Exception as error:
            self.sampling.error = error

    def take(self, token: int) -> tuple[TokenIds, FinishReason | None]:
        """Counts a drawn token: (what the client gets, why the row ends). The token that stops is not shown."""
        self.read_token = None
        if self.complete or token in self.job.stop_ids:
            return (), FinishReason.STOP
        self.drawn.append(token)
        full = len(self.drawn) >= self.job.max_tokens
        if self.guide is not None and self.guide.over:
            self.complete = True
            return (token,), FinishReason.STOP if full or not self.job.stop_ids else None
        return (token,), FinishReason.LENGTH if full else None

    def rewind(self) -> None:
        """Forgets draws that ran ahead of `drawn`, so that the row can be computed again and draw the same."""
        self.sampling.position = self.length_tokens
        self.read_token = None
        if self.job.guide is None:
            return
        try:
            self.guide = RowGuide(self.job.guide, self.job.stop_ids | self.job.banned_ids)
            for token in self.drawn:
                self.guide.advance(token)
        except Exception as error:
            self.sampling.error = error

"""A generation on its way to its client, noted as it passes, and safe in the ledger before its last event goes on.

An agent's next request comes milliseconds after the end of an answer, and may come to a process that was just started:
so the turn is in the lineage and on the disk before anybody reads that the answer is complete. Only the reader of this
answer waits for the disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import structlog

from inference.conversation.turn_chain import Placed
from inference.events import Event, Failed, Finished, Usage
from inference.tokens import Prompt
from mlxd.ledger.asked import Answers
from mlxd.ledger.record import Divergence, GenerationRecord
from mlxd.ledger.whose import Whose

CANCELLED = "cancelled"

log = structlog.get_logger(__name__)


class Answering(Protocol):
    """The reader's side of a generation, as the scheduler gives it out."""

    @property
    def id(self) -> str: ...

    @property
    def model_id(self) -> str: ...

    @property
    def prompt(self) -> Prompt: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    async def next_batch(self, timeout_s: float | None = None) -> tuple[Event, ...]: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a generation before it begins. Without a `placed` request it becomes no turn."""

    whose: Whose
    placed: Placed | None = None


class Scribe(Protocol):
    """Where ends are written down."""

    async def settle(self, record: GenerationRecord, placed: Placed, answers: Sequence[bytes]) -> None:
        """Returns when the turn is known and safe, or nothing more can be done for it."""

    def note(self, record: GenerationRecord) -> None:
        """A generation that became no turn. Never waits."""


class Recorded:
    """Stands in for the generation it reads from."""

    __slots__ = ("_answers", "_began_s", "_finished", "_known", "_over", "_scribe", "_source")

    def __init__(self, source: Answering, known: Known, scribe: Scribe) -> None:
        self._source = source
        self._known = known
        self._scribe = scribe
        self._began_s = time.time()
        self._answers = Answers(known.whose.choices)
        self._finished: list[Finished] = []
        self._over = False

    @property
    def id(self) -> str:
        return self._source.id

    @property
    def model_id(self) -> str:
        return self._source.model_id

    @property
    def prompt(self) -> Prompt:
        return self._source.prompt

    @property
    def prompt_tokens(self) -> int:
        return self._source.prompt_tokens

    @property
    def max_tokens(self) -> int:
        return self._source.max_tokens

    def cancel(self) -> None:
        """Idempotent. What was not read to its end by then is written down as cancelled."""
        self._source.cancel()
        if not self._over:
            self._over = True
            self._scribe.note(self._record(CANCELLED))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        return await self.next_batch()

    async def next_batch(self, timeout_s: float | None = None) -> tuple[Event, ...]:
        """The source's events. The last of them are held back until they are safe."""
        events = await self._source.next_batch(timeout_s)
        self._answers.add(events)
        self._finished += [event for event in events if isinstance(event, Finished)]
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if self._over:
            return events
        if failed is not None:
            self._over = True
            self._scribe.note(self._record(failed.error.code))
        elif len(self._finished) == self._known.whose.choices:
            self._over = True
            try:
                await self._settle()
            except Exception as error:  # an answer is not lost because it could not be written down
                log.error("turn_not_recorded", error=type(error).__name__, request_id=self.id)
        return events

    async def _settle(self) -> None:
        record, placed = self._record(self._finished[-1].reason.value), self._known.placed
        if placed is None:
            self._scribe.note(record)
        else:
            await self._scribe.settle(record, placed, self._answers.digests(self._known.whose.think))

    def _record(self, outcome: str) -> GenerationRecord:
        usage = self._finished[-1].usage if self._finished else Usage(self.prompt_tokens)
        return GenerationRecord(
            request_id=self.id,
            owner=self._known.whose.owner,
            model=self.model_id,
            outcome=outcome,
            edge=self._known.placed.edge.value if self._known.placed else "",
            usage=usage,
            malformed_calls=sum(event.malformed_calls for event in self._finished),
            began_s=self._began_s,
            total_s=max(0.0, time.time() - self._began_s),
            diverged=Divergence.of(self.prompt, usage.verdict) if self._finished else None,
        )

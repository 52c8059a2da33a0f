"""A generation on its way to its client, noted as it passes, and safe in the ledger before its last event goes on.

An agent's next request comes milliseconds after the end of an answer, and may come to a process that was just started:
so the turn is in the lineage and on the disk before anybody reads that the answer is complete. Only the reader of this
answer waits for the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import structlog

from inference.conversation.healing import Said
from inference.conversation.span_ledger import SpanLedger
from inference.conversation.turn_chain import Placed
from inference.events import Admitted, Event, Failed, Finished, Usage
from inference.tokens import Prompt
from mlxd.ledger.asked import Answers
from mlxd.ledger.record import GenerationRecord
from mlxd.ledger.whose import Whose
from mlxd.ledger.witness import Observed, Witnessed

CANCELLED = "cancelled"
KEPT_S = 0.5
"""For the last blocks of an answer to reach the disk: a hundred times what one takes."""

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
    """What is known of a generation before it begins. Without a `placed` request it becomes no turn.

    `spans` is what became of the request's volatile text, `spoken` the numbers of its messages that are read as the
    model spoke them. What is `observed` says its verdicts in words.
    """

    whose: Whose
    placed: Placed | None = None
    spans: SpanLedger | None = None
    spoken: frozenset[int] = frozenset()
    observed: Observed | None = None

    @property
    def session(self) -> str:
        """The one it belongs to, or would begin."""
        return self.whose.session if self.placed is None else self.placed.session


class Listener(Protocol):
    """Who hears the answers to one request as the model speaks them."""

    async def said(self) -> tuple[Said, ...]:
        """The answers that came to their end since it was asked last. An echo of them is recognised from now on."""


class Scribe(Protocol):
    """Where ends are written down."""

    async def settle(
        self, record: GenerationRecord, placed: Placed, answers: Sequence[bytes], said: Sequence[Said]
    ) -> None:
        """Returns when the turn is known and safe, and what was said in it, or nothing more can be done for it."""

    def note(self, record: GenerationRecord, said: Sequence[Said]) -> None:
        """A generation that became no turn. Never waits."""


class Recorded:
    """Stands in for the generation it reads from. `keep` waits, so long at most, for what was computed to be safe."""

    __slots__ = (
        "_admitted", "_answers", "_began_s", "_finished", "_keep", "_known", "_listener", "_over", "_said", "_scribe",
        "_source", "_witnessed",
    )  # fmt: skip

    def __init__(
        self,
        source: Answering,
        known: Known,
        scribe: Scribe,
        listener: Listener | None = None,
        keep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self._source = source
        self._known = known
        self._scribe = scribe
        self._listener = listener
        self._keep = keep
        self._said: tuple[Said, ...] = ()
        self._began_s = time.time()
        self._answers = Answers(known.whose.choices)
        self._witnessed = Witnessed(known.observed)
        self._admitted: Admitted | None = None
        self._finished: list[Finished] = []
        self._over = False

    @property
    def id(self) -> str:
        return self._source.id

    @property
    def known(self) -> Known:
        return self._known

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
            self._scribe.note(self._record(CANCELLED), self._said)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        return await self.next_batch()

    async def next_batch(self, timeout_s: float | None = None) -> tuple[Event, ...]:
        """The source's events. The last of them are held back until they are safe."""
        events = self._witnessed.told(await self._source.next_batch(timeout_s))
        self._answers.add(events)
        self._admitted = next((event for event in events if isinstance(event, Admitted)), self._admitted)
        finished = [event for event in events if isinstance(event, Finished)]
        self._finished += finished
        if finished and self._listener is not None:  # each of several answers is known before its own end is read
            self._said += await self._listener.said()
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if self._over:
            return events
        if failed is not None:
            self._over = True
            self._scribe.note(self._record(failed.error.code), self._said)
        elif len(self._finished) == self._known.whose.choices:
            self._over = True
            try:
                self._witnessed.ended()
                await asyncio.gather(self._settle(), self._kept())
            except Exception as error:  # an answer is not lost because it could not be written down
                log.error("turn_not_recorded", error=type(error).__name__, request_id=self.id)
        return events

    async def _kept(self) -> None:
        if self._keep is not None:
            await self._keep(KEPT_S)

    async def _settle(self) -> None:
        record, placed = self._record(self._finished[-1].reason.value), self._known.placed
        if placed is None:
            self._scribe.note(record, self._said)
        else:
            placed = placed.answered(self._answers.call_ids)
            digests = self._answers.digests(self._known.whose.think)
            await self._scribe.settle(record, placed, digests, self._said)

    def _record(self, outcome: str) -> GenerationRecord:
        usage = self._finished[-1].usage if self._finished else self._begun()
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
            diverged=self._witnessed.difference if self._finished else None,
            session=self._known.session,
        )

    def _begun(self) -> Usage:
        """Of what did not come to its end: how warm it was to begin."""
        seen = self._admitted
        if seen is None:
            return Usage(self.prompt_tokens)
        return Usage(self.prompt_tokens, seen.cached_tokens, verdict=seen.verdict)

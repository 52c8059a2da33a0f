"""A request, its ticket through the scheduler, and the handle its reader holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from inference.events import Event
from inference.messages import Tool
from inference.params import CacheScope, GenerationParams
from inference.ports import Guide, ModelRef, Tokenizer
from inference.scheduler.mailbox import Mailbox
from inference.scheduler.transcript import Spoken
from inference.streaming.pieces import BrokenCall
from inference.streaming.splitter import ReasoningMode
from inference.tokens import Prompt


@dataclass(frozen=True, slots=True)
class Thinking:
    """How thoughts are told from the answer. `shown` are the markers' ids where these are otherwise silent tokens.

    `mode`: `prefilled` when the prompt ends in the middle of a thought.
    """

    opener: str = "<think>"
    closer: str = "</think>"
    mode: ReasoningMode = ReasoningMode.AUTO
    shown: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Request:
    """A validated, rendered request. `client` is its key in the fair queue; "" is shared by all who have none.

    `context_tokens` is the room for prompt and answer together. Without `thinking` the whole answer is content.
    Calls of `tools` are read out of the answer, in the `dialects` of the model and those that any may use; `shown` are
    ids of their markers that are otherwise silent. `guide` steers the draws. `report` is told of calls that could not
    be read, `note` of each answer that came to its own end (not of one cut by a stop string), before the client hears
    that it did. Both are called on the worker thread and do not raise.
    """

    id: str
    model: ModelRef
    tokenizer: Tokenizer
    prompt: Prompt
    params: GenerationParams
    context_tokens: int
    client: str = ""
    thinking: Thinking | None = None
    tools: tuple[Tool, ...] = ()
    shown: frozenset[int] = frozenset()
    guide: Guide | None = None
    dialects: tuple[str, ...] = ()
    report: Callable[[BrokenCall], None] | None = None
    cache: CacheScope | None = None
    note: Callable[[Spoken], None] | None = None


type Keep = Callable[[Collection[str]], Future[None] | None]
"""What `PrefixStore.kept` says of some jobs."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way. `number` orders tickets by arrival.

    `announced`: its `Admitted` is out. `awaits_memory`: only memory keeps it waiting, about `needs_bytes` of it.
    """

    request: Request
    number: int
    max_tokens: int
    submitted_s: float
    mailbox: Mailbox
    announced: bool = False
    awaits_memory: bool = False
    needs_bytes: int = 0

    @property
    def job_id(self) -> str:
        """Unique among jobs, also where a client sends one request id twice."""
        return f"{self.request.id}#{self.number}"

    @property
    def choices(self) -> int:
        """How many answers it wants."""
        return self.request.params.n

    @property
    def job_ids(self) -> tuple[str, ...]:
        """One for each choice; the first is `job_id`."""
        return (self.job_id, *(f"{self.job_id}.{choice}" for choice in range(1, self.choices)))

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)


class Generation:
    """One accepted request. Iterate it for tuples of the events that are ready together; read it on one loop only.

    It ends after `Finished` or `Failed`. Whoever stops reading earlier calls `cancel()`.
    """

    __slots__ = ("_keep", "_mailbox", "_ticket")

    def __init__(self, ticket: Ticket, keep: Keep = lambda _: None) -> None:
        self._ticket = ticket
        self._keep = keep
        self._mailbox = ticket.mailbox

    @property
    def id(self) -> str:
        return self._ticket.request.id

    @property
    def model_id(self) -> str:
        return self._ticket.request.model.id

    @property
    def prompt_tokens(self) -> int:
        return self._ticket.prompt_tokens

    @property
    def prompt(self) -> Prompt:
        return self._ticket.request.prompt

    @property
    def max_tokens(self) -> int:
        """What was asked, cut to the room left in the context."""
        return self._ticket.max_tokens

    @property
    def ended(self) -> bool:
        """The final event was read."""
        return self._mailbox.ended

    def cancel(self) -> None:
        """Frees its place in the queue at once, or its row within one step. Idempotent, from any thread."""
        self._mailbox.cancel()

    async def kept(self, timeout_s: float) -> None:
        """Waits until the whole blocks it has left so far outlive the process, or never will, or the time is over."""
        future = self._keep(self._ticket.job_ids)
        if future is not None and not future.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)

    async def next_batch(self, timeout_s: float | None = None) -> tuple[Event, ...]:
        """The next events that are ready together, () after `timeout_s`; `StopAsyncIteration` after the final one."""
        return await self._mailbox.next_batch(timeout_s)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        return await self._mailbox.next_batch()

"""The rows of one request, one for each answer it asked for: what they say goes out by one door and is billed once.

They start together, share one prefill where the engine can, and end apart. A fault of one ends the request, because
no client could tell which of its answers that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inference.errors import InferenceError
from inference.events import Event, Failed, Finished, Looked, PrefillProgress, Usage
from inference.ports import Prefilled
from inference.scheduler.request import Ticket
from inference.scheduler.row import Row


class Choices:
    """A running request. `events` are those not yet delivered, of all rows, in the order in which they happened.

    `looked` is what its prompt began with.
    """

    __slots__ = ("_computed_tokens", "_usages", "events", "looked", "rows", "ticket")

    def __init__(self, ticket: Ticket, now_s: float, reserve_tokens: int, deadline_s: float | None = None) -> None:
        self.ticket = ticket
        self.events: list[Event] = []
        self.looked = Looked()
        self._computed_tokens = 0
        self._usages: list[Usage] = []
        self.rows = tuple(Row(self, choice, now_s, reserve_tokens, deadline_s) for choice in range(ticket.choices))

    @property
    def over(self) -> bool:
        return all(row.over for row in self.rows)

    def take_events(self) -> list[Event]:
        """Hands over what was not yet delivered."""
        taken = self.events[:]
        self.events.clear()
        return taken

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the model was not called with: what is left of the prompt when those are counted."""
        return max(0, self.ticket.prompt_tokens - self._computed_tokens) if self._computed_tokens else 0

    def prefilled(self, output: Prefilled) -> None:
        """Takes progress of the shared prompt; once an answer has begun, that is an engine's own affair."""
        self._computed_tokens += output.computed_tokens
        before = max(row.done_tokens for row in self.rows)
        if output.done_tokens <= before or any(row.begun for row in self.rows):
            return
        for row in self.rows:
            row.done_tokens = output.done_tokens
        self.events.append(PrefillProgress(output.done_tokens, output.total_tokens))

    def finished(self, final: Finished) -> None:
        """Tells the end of one answer; the last one brings the bill for all."""
        self._usages.append(final.usage)
        self.events.append(replace(final, usage=total(self._usages)) if self.over else final)

    def fail(self, error: InferenceError) -> None:
        """Ends all answers that are not over."""
        if self.over:
            return
        for row in self.rows:
            row.over = True
        self.events.append(Failed(error))


def total(usages: Sequence[Usage]) -> Usage:
    """One bill for answers that share a prompt: it is counted once, and time by the clock, not by the row."""
    first, *others = usages
    if not others:
        return first
    prefill_s = min(usage.prefill_s for usage in usages)
    return replace(
        first,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        prefill_s=prefill_s,
        decode_s=max(usage.prefill_s + usage.decode_s for usage in usages) - prefill_s,
    )

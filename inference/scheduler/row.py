"""A running request on the worker thread: its job, its clock, its reservation, and how it ends."""

from __future__ import annotations

from inference.errors import InferenceError
from inference.events import Event, Failed, Finished, FinishReason, PrefillProgress, Usage
from inference.ports import Job, Prefilled, Sampled
from inference.scheduler.answer import Answer
from inference.scheduler.request import Ticket
from inference.scheduler.view import RowView


class Row:
    """One job and what became of it so far. `events` are those not yet delivered; `over` once the final one is there.

    `reserved_tokens` is the length its memory is reserved for.
    """

    __slots__ = (
        "_answer", "_first_s", "completion_tokens", "deadline_s", "done_tokens", "job", "over", "reserve_tokens",
        "reserved_tokens", "started_s", "ticket",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, now_s: float, reserve_tokens: int, deadline_s: float | None = None) -> None:
        request = ticket.request
        self.ticket = ticket
        self.started_s = now_s
        self.deadline_s = None if deadline_s is None else now_s + deadline_s
        self.reserve_tokens = reserve_tokens
        self.reserved_tokens = ticket.prompt_tokens + min(ticket.max_tokens, reserve_tokens)
        self.job = Job(
            id=ticket.job_id,
            prompt=request.prompt,
            sampling=request.params.sampling,
            max_tokens=ticket.max_tokens,
            stop_ids=request.tokenizer.eos_ids.union(request.params.stop.token_ids),
        )
        self.over = False
        self.done_tokens = 0
        self.completion_tokens = 0
        self._answer = Answer(request)
        self._first_s: float | None = None

    @property
    def events(self) -> list[Event]:
        """Those not yet delivered."""
        return self._answer.events

    def take_events(self) -> list[Event]:
        """Hands over what was not yet delivered."""
        taken, self._answer.events = self._answer.events, []
        return taken

    @property
    def outgrown(self) -> bool:
        """It is about to pass the length its memory was reserved for."""
        return len(self.job.prompt) + self.completion_tokens >= self.reserved_tokens < self._longest

    @property
    def _longest(self) -> int:
        return len(self.job.prompt) + self.job.max_tokens

    def extend_reservation(self) -> None:
        self.reserved_tokens = min(self._longest, self.reserved_tokens + self.reserve_tokens)

    def prefilled(self, output: Prefilled) -> None:
        """Takes progress of the prompt; once the answer has begun, that is an engine's own affair."""
        if self._first_s is not None:
            return
        self.done_tokens = output.done_tokens
        self.events.append(PrefillProgress(output.done_tokens, output.total_tokens))

    def sampled(self, output: Sampled, now_s: float) -> None:
        """Takes the tokens of one step. Those after a stop string or past `max_tokens` were never asked for."""
        if self._first_s is None:
            self._first_s = now_s
            self.done_tokens = len(self.job.prompt)
        tokens = output.tokens[: self.job.max_tokens - self.completion_tokens]
        used = self._answer.push(tokens)
        self.completion_tokens += len(tokens) if used is None else used
        reason = output.finish if used is None else FinishReason.STOP
        if reason is None and self.completion_tokens >= self.job.max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            self.finish(reason, now_s)

    def finish(self, reason: FinishReason, now_s: float) -> None:
        """Ends the answer; what its text held back is shown first."""
        if self._answer.finish():
            reason = FinishReason.STOP
        if reason is FinishReason.STOP and self._answer.called:
            reason = FinishReason.TOOL_CALLS
        self.events.append(Finished(reason, self.usage(now_s), self._answer.malformed_calls, self._answer.choice))
        self.over = True

    def fail(self, error: InferenceError) -> None:
        self.events.append(Failed(error))
        self.over = True

    def usage(self, now_s: float) -> Usage:
        first_s = self._first_s
        return Usage(
            prompt_tokens=len(self.job.prompt),
            completion_tokens=self.completion_tokens,
            reasoning_tokens=self._answer.reasoning_tokens,
            queue_s=self.started_s - self.ticket.submitted_s,
            prefill_s=(now_s if first_s is None else first_s) - self.started_s,
            decode_s=0.0 if first_s is None else now_s - first_s,
        )

    def view(self, now_s: float) -> RowView:
        return RowView(
            id=self.ticket.request.id,
            model_id=self.ticket.request.model.id,
            prompt_tokens=len(self.job.prompt),
            done_tokens=self.done_tokens,
            completion_tokens=self.completion_tokens,
            max_tokens=self.job.max_tokens,
            queue_s=self.started_s - self.ticket.submitted_s,
            running_s=now_s - self.started_s,
        )

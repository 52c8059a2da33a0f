"""One answer in the making, on the worker thread: its job, its clock, its reservation, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inference.events import Finished, FinishReason, Usage
from inference.params import SamplingParams
from inference.ports import Job, Sampled
from inference.scheduler.answer import Answer
from inference.scheduler.budget import held_tokens
from inference.scheduler.transcript import Spoken, Transcript
from inference.scheduler.view import RowView

if TYPE_CHECKING:
    from inference.scheduler.choices import Choices


class Row:
    """One job and what became of it so far: one of the `choices` of a request, whose events it adds to.

    `over` once the final one is there. `reserved_tokens` is the length its memory is reserved for.
    """

    __slots__ = (
        "_answer", "_first_s", "_transcript", "choices", "completion_tokens", "deadline_s", "done_tokens", "job",
        "over", "reserve_tokens", "reserved_tokens", "started_s", "ticket",
    )  # fmt: skip

    def __init__(
        self, choices: Choices, choice: int, now_s: float, reserve_tokens: int, deadline_s: float | None = None
    ) -> None:
        ticket = choices.ticket
        request, params = ticket.request, ticket.request.params
        eos_ids, own_stops = request.tokenizer.eos_ids, frozenset(params.stop.token_ids)
        self.choices = choices
        self.ticket = ticket
        self.started_s = now_s
        self.deadline_s = None if deadline_s is None else now_s + deadline_s
        self.reserve_tokens = reserve_tokens
        self.reserved_tokens = ticket.prompt_tokens + min(ticket.max_tokens, reserve_tokens)
        self.job = Job(
            id=ticket.job_ids[choice],
            prompt=request.prompt,
            sampling=_seeded(params.sampling, choice),
            max_tokens=ticket.max_tokens,
            stop_ids=own_stops if params.ignore_eos else eos_ids | own_stops,
            min_tokens=params.min_tokens,
            banned_ids=eos_ids - own_stops if params.ignore_eos else frozenset(),
            top_logprobs=params.top_logprobs,
            guide=request.guide,
            kv=params.kv,
            fork_of=ticket.job_id if choice else "",
            cache=request.cache,
        )
        self.over = False
        self.done_tokens = 0
        self.completion_tokens = 0
        self._answer = Answer(request, choice)
        self._answer.events = choices.events
        self._transcript = None if request.note is None else Transcript()
        self._first_s: float | None = None

    @property
    def begun(self) -> bool:
        """Its first token was drawn."""
        return self._first_s is not None

    @property
    def held_tokens(self) -> int:
        """Its reservation in tokens of unquantised KV."""
        return held_tokens(self.reserved_tokens, self.job.kv)

    @property
    def outgrown(self) -> bool:
        """It is about to pass the length its memory was reserved for."""
        return len(self.job.prompt) + self.completion_tokens >= self.reserved_tokens < self._longest

    @property
    def _longest(self) -> int:
        return len(self.job.prompt) + self.job.max_tokens

    def extend_reservation(self) -> None:
        self.reserved_tokens = min(self._longest, self.reserved_tokens + self.reserve_tokens)

    def sampled(self, output: Sampled, now_s: float) -> None:
        """Takes the tokens of one step. Those after a stop string or past `max_tokens` were never asked for."""
        if self._first_s is None:
            self._first_s = now_s
            self.done_tokens = len(self.job.prompt)
        tokens = output.tokens[: self.job.max_tokens - self.completion_tokens]
        told = len(self.choices.events)
        used = self._answer.push(tokens, output.logprobs)
        self.completion_tokens += len(tokens) if used is None else used
        if self._transcript is not None:
            self._transcript.drew(tokens)
            self._transcript.told(self.choices.events[told:])
            if used is not None:
                self._transcript = None
        reason = output.finish if used is None else FinishReason.STOP
        if reason is None and self.completion_tokens >= self.job.max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            self.finish(reason, now_s)

    def finish(self, reason: FinishReason, now_s: float) -> None:
        """Ends the answer; what its text held back is shown first."""
        told = len(self.choices.events)
        cut = self._answer.finish()
        if cut:
            reason = FinishReason.STOP
        if self._transcript is not None and not cut:
            self._transcript.told(self.choices.events[told:])
            self._note(self._transcript.spoken())
        if reason is FinishReason.STOP and self._answer.called:
            reason = FinishReason.TOOL_CALLS
        self.over = True
        self.choices.finished(
            Finished(reason, self.usage(now_s), self._answer.malformed_calls, self._answer.choice),
        )

    def _note(self, spoken: Spoken) -> None:
        if (note := self.ticket.request.note) is not None:
            note(spoken)

    def usage(self, now_s: float) -> Usage:
        first_s = self._first_s
        return Usage(
            prompt_tokens=len(self.job.prompt),
            cached_tokens=self.choices.cached_tokens,
            verdict=self.choices.looked.verdict,
            lost_tokens=self.choices.looked.lost_tokens,
            parting=self.choices.looked.parting,
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
            choice=self._answer.choice,
        )


def _seeded(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Each choice has a random stream of its own: that of the request's seed plus its number."""
    return sampling if sampling.seed is None or not choice else replace(sampling, seed=sampling.seed + choice)

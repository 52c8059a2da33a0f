"""A running request on the worker thread: tokens in, events out (detokenise, find stop strings, split, count).

Stop strings are looked for in all the text of an answer, thoughts and their markers included: the answer ends where
the client said, in whichever channel that is.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import groupby

from inference.errors import InferenceError
from inference.events import (
    Channel,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    PrefillProgress,
    ToolCallDelta,
    Usage,
)
from inference.ports import Job, Prefilled, Sampled
from inference.scheduler.request import Thinking, Ticket
from inference.scheduler.view import RowView
from inference.streaming.splitter import Piece, ReasoningMode, Splitter
from inference.streaming.stop import StopMatcher
from inference.streaming.tool_calls import ParsedCall, ToolCallParser

Part = Piece | ParsedCall


class Row:
    """One job and what became of it so far. `events` are those not yet delivered; `over` once the final one is there.

    `reserved_tokens` is the length its memory is reserved for.
    """

    __slots__ = (
        "_calls", "_detokenizer", "_first_s", "_matcher", "_shown_calls", "_silent_tokens", "_splitter",
        "completion_tokens", "deadline_s", "done_tokens", "events", "job", "over", "reasoning_tokens",
        "reserve_tokens", "reserved_tokens", "started_s", "ticket",
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
        self.events: list[Event] = []
        self.over = False
        self.done_tokens = 0
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        thinking = request.thinking or Thinking(mode=ReasoningMode.OFF)
        self._detokenizer = request.tokenizer.detokenizer(thinking.shown | request.shown)
        self._matcher = StopMatcher(request.params.stop.strings)
        self._splitter = Splitter(thinking.opener, thinking.closer, thinking.mode)
        self._calls = ToolCallParser(request.tools)
        self._shown_calls = 0
        self._silent_tokens = 0
        self._first_s: float | None = None

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
        parts: list[Part] = []
        reason = output.finish
        for token in output.tokens:
            self.completion_tokens += 1
            self._silent_tokens += 1
            text, stopped = self._matcher.push(self._detokenizer.push(token))
            parts += self._split(text)
            if stopped:
                reason = FinishReason.STOP
                break
            if self.completion_tokens >= self.job.max_tokens:
                reason = reason or FinishReason.LENGTH
                break
        if reason is None:
            self._show(parts)
        else:
            self.finish(reason, now_s, parts)

    def finish(self, reason: FinishReason, now_s: float, parts: Sequence[Part] = ()) -> None:
        """Ends the answer; what was held back as half a character, stop string or marker is shown first."""
        parts = list(parts)
        if not self._matcher.stopped:
            tail, stopped = self._matcher.push(self._detokenizer.finish())
            reason = FinishReason.STOP if stopped else reason
            parts += self._read(self._splitter.push(tail + self._matcher.finish()))
        parts += self._read(self._splitter.finish())
        self._show([*parts, *map(_part, self._calls.finish())])
        if reason is FinishReason.STOP and self._calls.calls:
            reason = FinishReason.TOOL_CALLS
        self.events.append(Finished(reason, self.usage(now_s), self._calls.malformed))
        self.over = True

    def fail(self, error: InferenceError) -> None:
        self.events.append(Failed(error))
        self.over = True

    def usage(self, now_s: float) -> Usage:
        first_s = self._first_s
        return Usage(
            prompt_tokens=len(self.job.prompt),
            completion_tokens=self.completion_tokens,
            reasoning_tokens=self.reasoning_tokens,
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

    def _split(self, text: str) -> list[Part]:
        """What one token's text says. A token that begins or ends in a thought is one of reasoning."""
        begins_inside = self._splitter.thinking
        pieces = self._splitter.push(text)
        self.reasoning_tokens += begins_inside or self._splitter.thinking
        return self._read(pieces)

    def _read(self, pieces: Sequence[Piece]) -> list[Part]:
        parts: list[Part] = []
        for piece in pieces:
            if piece[0] is Channel.CONTENT:
                parts += map(_part, self._calls.push(piece[1]))
            else:
                parts.append(piece)
        return parts

    def _show(self, parts: Sequence[Part]) -> None:
        """One event for each call and run of text in one channel; the first takes all tokens that had none yet."""
        for channel, run in groupby(parts, key=_channel):
            text = ""
            for part in run:
                if isinstance(part, ParsedCall):
                    self._show_call(part)
                else:
                    text += part[1]
            if text:
                self.events.append(Delta(text, self._silent_tokens, channel))
                self._silent_tokens = 0

    def _show_call(self, call: ParsedCall) -> None:
        made = f"call{secrets.token_hex(12)}"  # letters and digits only: some templates take nothing else
        self.events.append(ToolCallDelta(self._shown_calls, made, call.name, call.arguments, self._silent_tokens))
        self._shown_calls += 1
        self._silent_tokens = 0


def _part(found: str | ParsedCall) -> Part:
    return found if isinstance(found, ParsedCall) else (Channel.CONTENT, found)


def _channel(part: Part) -> Channel:
    return Channel.TOOL_CALL if isinstance(part, ParsedCall) else part[0]

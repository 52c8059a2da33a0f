"""The text of one answer: tokens in, events out (detokenise, find stop strings, split, read calls, count).

Stop strings are looked for in all the text of an answer, thoughts and their markers included: the answer ends where
the client said, in whichever channel that is.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import groupby

from inference.events import Channel, Delta, Event, TokenLogprob, ToolCallDelta
from inference.scheduler.request import Request, Thinking
from inference.streaming.splitter import Piece, ReasoningMode, Splitter
from inference.streaming.stop import StopMatcher
from inference.streaming.tool_calls import ParsedCall, ToolCallParser

Part = Piece | ParsedCall


class Answer:
    """What one row has said. `events` are those not yet delivered, `reasoning_tokens` those spent in thoughts."""

    __slots__ = (
        "_calls", "_detokenizer", "_matcher", "_shown_calls", "_silent_logprobs", "_silent_tokens", "_splitter",
        "choice", "events", "reasoning_tokens",
    )  # fmt: skip

    def __init__(self, request: Request, choice: int = 0) -> None:
        self.choice = choice
        self.events: list[Event] = []
        self.reasoning_tokens = 0
        thinking = request.thinking or Thinking(mode=ReasoningMode.OFF)
        self._detokenizer = request.tokenizer.detokenizer(thinking.shown | request.shown)
        self._matcher = StopMatcher(request.params.stop.strings)
        self._splitter = Splitter(thinking.opener, thinking.closer, thinking.mode)
        self._calls = ToolCallParser(request.tools)
        self._shown_calls = 0
        self._silent_tokens = 0
        self._silent_logprobs: list[TokenLogprob] = []

    @property
    def called(self) -> bool:
        """At least one tool call was shown."""
        return self._shown_calls > 0

    @property
    def malformed_calls(self) -> int:
        return self._calls.malformed

    def push(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> int | None:
        """Takes the tokens of one step and shows what is certain; how many were used when a stop string ended it.

        `logprobs`, where wanted, has one entry for each token; those of tokens outside of thoughts go with the text.
        """
        parts: list[Part] = []
        used = None
        for count, token in enumerate(tokens, 1):
            self._silent_tokens += 1
            text, stopped = self._matcher.push(self._detokenizer.push(token))
            reasoned = self.reasoning_tokens
            parts += self._split(text)
            if logprobs and self.reasoning_tokens == reasoned:
                self._silent_logprobs.append(logprobs[count - 1])
            if stopped:
                used = count
                break
        self._show(parts)
        return used

    def finish(self) -> bool:
        """Shows what was held back as half a character, stop string or marker; True when that ends in a stop string."""
        parts: list[Part] = []
        stopped = False
        if not self._matcher.stopped:
            tail, stopped = self._matcher.push(self._detokenizer.finish())
            parts += self._read(self._splitter.push(tail + self._matcher.finish()))
        parts += self._read(self._splitter.finish())
        self._show([*parts, *map(_part, self._calls.finish())])
        return stopped

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
                logprobs = () if channel is Channel.REASONING else self._take_logprobs()
                self.events.append(Delta(text, self._silent_tokens, channel, self.choice, logprobs))
                self._silent_tokens = 0

    def _show_call(self, call: ParsedCall) -> None:
        logprobs = self._take_logprobs()
        made = f"call{secrets.token_hex(12)}"  # letters and digits only: some templates take nothing else
        self.events.append(
            ToolCallDelta(
                self._shown_calls, made, call.name, call.arguments, self._silent_tokens, self.choice, logprobs
            )
        )
        self._shown_calls += 1
        self._silent_tokens = 0

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that had no text yet."""
        taken, self._silent_logprobs = tuple(self._silent_logprobs), []
        return taken


def _part(found: str | ParsedCall) -> Part:
    return found if isinstance(found, ParsedCall) else (Channel.CONTENT, found)


def _channel(part: Part) -> Channel:
    return Channel.TOOL_CALL if isinstance(part, ParsedCall) else part[0]

"""The text of one answer: tokens in, events out (detokenise, find stop strings, split, read calls, count).

Stop strings are looked for in all the text of an answer, thoughts, calls and markers included: the answer ends where
the client said, in whichever channel that is.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from inference.events import Channel, Delta, Event, TokenLogprob, ToolCallDelta
from inference.scheduler.request import Request, Thinking
from inference.streaming.answer_reader import AnswerReader
from inference.streaming.channels import ChannelSplitter
from inference.streaming.dialects.choice import dialects, message_format
from inference.streaming.pieces import AnswerMachine, BrokenCall, Piece, Said, joined
from inference.streaming.reading import Arguments, Begun, Ended
from inference.streaming.splitter import ReasoningMode, Splitter, TextSplitter
from inference.streaming.stop import StopMatcher


class Answer:
    """What one row has said. `events` are those not yet delivered, `reasoning_tokens` those spent in thoughts."""

    __slots__ = (
        "_calls", "_detokenizer", "_machine", "_matcher", "_opening", "_report", "_silent_logprobs", "_silent_tokens",
        "choice", "events", "reasoning_tokens",
    )  # fmt: skip

    def __init__(self, request: Request, choice: int = 0) -> None:
        self.choice = choice
        self.events: list[Event] = []
        self.reasoning_tokens = 0
        thinking = request.thinking or Thinking(mode=ReasoningMode.OFF)
        self._detokenizer = request.tokenizer.detokenizer(thinking.shown | request.shown)
        self._matcher = StopMatcher(request.params.stop.strings)
        splitter = _splitter(thinking, request.dialects)
        self._machine: AnswerMachine = AnswerReader(splitter, dialects(request.dialects), request.tools)
        self._report = request.report or _unreported
        self._calls = 0
        self._opening: Begun | None = None  # a call of which nothing was told yet
        self._silent_tokens = 0
        self._silent_logprobs: list[TokenLogprob] = []

    @property
    def called(self) -> bool:
        """At least one tool call was shown."""
        return self._calls > 0

    @property
    def malformed_calls(self) -> int:
        return self._machine.malformed

    @property
    def broken_calls(self) -> Sequence[BrokenCall]:
        """The first of the malformed calls, with what the model wrote."""
        return self._machine.broken_calls

    def push(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> int | None:
        """Takes the tokens of one step and shows what is certain; how many were used when a stop string ended it.

        `logprobs`, where wanted, has one entry for each token; those of tokens outside of thoughts go with the text.
        """
        pieces: list[Piece] = []
        used = None
        for count, token in enumerate(tokens, 1):
            self._silent_tokens += 1
            text, stopped = self._matcher.push(self._detokenizer.push(token))
            reasoned = self.reasoning_tokens
            pieces += self._read(text)
            if self.reasoning_tokens > reasoned:
                self._forget_markers(pieces)
            elif logprobs:
                self._silent_logprobs.append(logprobs[count - 1])
            if stopped:
                used = count
                break
        self._show(pieces)
        return used

    def finish(self) -> bool:
        """Shows what was held back as half a character, stop string or marker; True when that ends in a stop string."""
        pieces: list[Piece] = []
        stopped = False
        if not self._matcher.stopped:
            tail, stopped = self._matcher.push(self._detokenizer.finish())
            pieces += self._machine.push(tail + self._matcher.finish())
        self._show([*pieces, *self._machine.finish()])
        for broken in self._machine.broken_calls:
            self._report(broken)
        return stopped

    def _read(self, text: str) -> Sequence[Piece]:
        """What one token's text says. A token that begins or ends in a thought is one of reasoning."""
        begins_inside = self._machine.thinking
        pieces = self._machine.push(text)
        self.reasoning_tokens += begins_inside or self._machine.thinking
        return pieces

    def _show(self, pieces: Sequence[Piece]) -> None:
        """One event for each run of text in one channel and piece of a call; the first takes all silent tokens."""
        for piece in joined(pieces):
            match piece:
                case Said(channel, text):
                    logprobs = () if channel is Channel.REASONING else self._take_logprobs()
                    self.events.append(Delta(text, self._spoken(), channel, self.choice, logprobs))
                case Begun():
                    self._open(piece)
                case Arguments(json):
                    self._call(json)
                case Ended() if self._silent_tokens and self._opening is None:
                    self._call("")  # those of what closes the call are told with it
        self._open(None)

    def _open(self, call: Begun | None) -> None:
        """Begins a call, whose first arguments may follow at once; one of which nothing followed is told now."""
        if self._opening is not None:
            self._call("")
        self._opening = call

    def _call(self, arguments: str) -> None:
        """A piece of the call that is open, its first one with a name and an id of its own."""
        name = made = ""
        if self._opening is not None:
            name, self._opening = self._opening.name, None
            made = f"call{secrets.token_hex(12)}"  # letters and digits only: some templates take nothing else
            self._calls += 1
        logprobs = self._take_logprobs()
        self.events.append(ToolCallDelta(self._calls - 1, made, name, arguments, self._spoken(), self.choice, logprobs))

    def _spoken(self) -> int:
        tokens, self._silent_tokens = self._silent_tokens, 0
        return tokens

    def _forget_markers(self, pieces: Sequence[Piece]) -> None:
        """Tokens that had no text when a thought begins were its marker, unless their text is about to be shown."""
        if not any(isinstance(piece, Said) and piece.channel is Channel.CONTENT for piece in pieces):
            self._silent_logprobs.clear()

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that had no text yet."""
        taken, self._silent_logprobs = tuple(self._silent_logprobs), []
        return taken


def _splitter(thinking: Thinking, names: Sequence[str]) -> TextSplitter:
    format_ = message_format(names)
    if format_ is None:
        return Splitter(thinking.opener, thinking.closer, thinking.mode)
    return ChannelSplitter(format_, thinking=thinking.mode is ReasoningMode.PREFILLED)


def _unreported(_: BrokenCall) -> None:
    """For requests whose malformed calls nobody asked about."""

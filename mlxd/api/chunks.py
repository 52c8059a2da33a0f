"""From events to the chunk objects of the OpenAI dialects: the one reducer behind streamed and folded answers.

A streamed answer is these chunks as they come; a folded one is `reply.fold` over the very same chunks. So the two
cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from inference.errors import InferenceError
from inference.events import (
    Admitted,
    Channel,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from mlxd.api.logprobs import TextLogprobs, Vocabulary, chat_logprobs

type Chunk = dict[str, Any]
type Choice = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of one answer repeats. `separate_usage`: usage has a chunk of its own, null in the others.

    `strip_thinking`: reasoning makes no chunks. `choices`: how many answers there are.
    """

    id: str
    model: str
    created_s: int
    separate_usage: bool = False
    strip_thinking: bool = False
    choices: int = 1


class Shape(Protocol):
    """How one dialect writes the `choices` entry of a chunk. One serves one request, whose answers `choice` numbers."""

    @property
    def object(self) -> str: ...

    def opening(self, choice: int) -> Choice | None:
        """The entry before the first text, if the dialect has one."""

    def piece(self, delta: Delta) -> Choice: ...

    def call(self, call: ToolCallDelta) -> Choice | None:
        """The entry of a tool call, if the dialect knows of calls."""

    def closing(self, reason: FinishReason, choice: int) -> Choice: ...


class ChatShape:
    """`chat.completion.chunk`. Text that looks like a call and could not be read is content: nothing said is lost.

    Without a `vocabulary` no log-probabilities are told.
    """

    object = "chat.completion.chunk"

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self._vocabulary = vocabulary

    def opening(self, choice: int) -> Choice:
        return _chat_choice(choice, {"role": "assistant", "content": ""})

    def piece(self, delta: Delta) -> Choice:
        if delta.channel is Channel.REASONING:
            return _chat_choice(delta.choice, {"reasoning_content": delta.text})
        return _chat_choice(delta.choice, {"content": delta.text}, logprobs=self._logprobs(delta.logprobs))

    def _logprobs(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._vocabulary, found) if found and self._vocabulary is not None else None

    def call(self, call: ToolCallDelta) -> Choice:
        if not call.id:
            more = {"index": call.index, "function": {"arguments": call.arguments}}
            return _chat_choice(call.choice, {"tool_calls": [more]})
        function = {"name": call.name, "arguments": call.arguments}
        made = {"index": call.index, "id": call.id, "type": "function", "function": function}
        return _chat_choice(call.choice, {"tool_calls": [made]})

    def closing(self, reason: FinishReason, choice: int) -> Choice:
        return _chat_choice(choice, {}, reason)


def _chat_choice(
    choice: int, delta: dict[str, Any], reason: FinishReason | None = None, logprobs: dict[str, Any] | None = None
) -> Choice:
    return {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class CompletionShape:
    """`text_completion`. `echo` is the prompt, put before the answer when the request asks for it."""

    object = "text_completion"

    def __init__(self, echo: str = "", vocabulary: Vocabulary | None = None) -> None:
        self._echo = echo
        self._vocabulary = vocabulary
        self._logprobs: dict[int, TextLogprobs] = {}

    def opening(self, choice: int) -> Choice | None:
        return _text_choice(choice, self._echo) if self._echo else None

    def piece(self, delta: Delta) -> Choice:
        if self._vocabulary is None or not delta.logprobs:
            return _text_choice(delta.choice, delta.text)
        written = self._logprobs.setdefault(delta.choice, TextLogprobs(self._vocabulary, len(self._echo)))
        return _text_choice(delta.choice, delta.text, logprobs=written.piece(delta.logprobs, delta.text))

    def call(self, call: ToolCallDelta) -> None:
        return None

    def closing(self, reason: FinishReason, choice: int) -> Choice:
        return _text_choice(choice, "", reason)


def _text_choice(
    choice: int, text: str, reason: FinishReason | None = None, logprobs: dict[str, Any] | None = None
) -> Choice:
    return {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as clients read it. The speed is of the answer alone, unless it was over with its first token."""
    seconds = usage.prefill_s + usage.decode_s
    whole_tps = usage.completion_tokens / seconds if seconds > 0 else 0.0
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "tokens_per_second": round(usage.decode_tps or whole_tps, 2),
    }


class Reducer:
    """Feeds on events in batches of any cut, gives chunks. `finished` or `error` says how the last answer ended,
    `admitted` how warm it was to begin.

    `calls` are the tool calls so far: each one's name and how many bytes its arguments have.
    """

    def __init__(self, envelope: Envelope, shape: Shape) -> None:
        self.done = False
        self.admitted: Admitted | None = None
        self.finished: Finished | None = None
        self.error: InferenceError | None = None
        self.calls: list[tuple[str, int]] = []
        self._shape = shape
        self._open_choices = envelope.choices
        self._opened: set[int] = set()
        self._call_at: dict[tuple[int, int], int] = {}
        self._separate_usage = envelope.separate_usage
        self._hidden = Channel.REASONING if envelope.strip_thinking else None
        self._head: Final = {
            "id": envelope.id,
            "object": shape.object,
            "created": envelope.created_s,
            "model": envelope.model,
        }

    def feed(self, events: Sequence[Event]) -> list[Chunk]:
        """The chunks that these events make; none after the end."""
        chunks: list[Chunk] = []
        for event in events:
            if self.done:
                break
            match event:
                case Admitted():
                    self.admitted = event
                case Delta(text=text, channel=channel) if text and channel is not self._hidden:
                    self._open(chunks, event.choice)
                    chunks.append(self._chunk(self._shape.piece(event)))
                case ToolCallDelta():
                    self._call(chunks, event)
                case Finished():
                    self._open(chunks, event.choice)
                    self._close(chunks, event)
                case Failed(error=error):
                    self.error, self.done = error, True
        return chunks

    def _open(self, chunks: list[Chunk], choice: int) -> None:
        if choice not in self._opened:
            self._opened.add(choice)
            opening = self._shape.opening(choice)
            if opening is not None:
                chunks.append(self._chunk(opening))

    def _call(self, chunks: list[Chunk], call: ToolCallDelta) -> None:
        at = self._call_at.setdefault((call.choice, call.index), len(self.calls))
        if at == len(self.calls):
            self.calls.append((call.name, 0))
        name, before_bytes = self.calls[at]
        self.calls[at] = (name, before_bytes + len(call.arguments.encode()))
        choice = self._shape.call(call)
        if choice is not None:
            self._open(chunks, call.choice)
            chunks.append(self._chunk(choice))

    def _close(self, chunks: list[Chunk], finished: Finished) -> None:
        last = self._chunk(self._shape.closing(finished.reason, finished.choice))
        chunks.append(last)
        self._open_choices -= 1
        if self._open_choices:
            return
        self.finished, self.done = finished, True
        told = usage_object(finished.usage)
        if self._separate_usage:
            chunks.append({**self._head, "choices": [], "usage": told})
        else:
            last["usage"] = told

    def _chunk(self, choice: Choice) -> Chunk:
        chunk: Chunk = {**self._head, "choices": [choice]}
        if self._separate_usage:
            chunk["usage"] = None
        return chunk

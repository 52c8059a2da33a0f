"""From events to the chunk objects of the OpenAI dialects: the one reducer behind streamed and folded answers.

A streamed answer is these chunks as they come; a folded one is `reply.fold` over the very same chunks. So the two
cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from inference.errors import InferenceError
from inference.events import Channel, Delta, Event, Failed, Finished, FinishReason, ToolCallDelta, Usage

type Chunk = dict[str, Any]
type Choice = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of one answer repeats. `separate_usage`: usage has a chunk of its own, null in the others.

    `strip_thinking`: reasoning makes no chunks.
    """

    id: str
    model: str
    created_s: int
    separate_usage: bool = False
    strip_thinking: bool = False


class Shape(Protocol):
    """How one dialect writes the `choices` entry of a chunk."""

    @property
    def object(self) -> str: ...

    def opening(self) -> Choice | None:
        """The entry before the first text, if the dialect has one."""

    def piece(self, channel: Channel, text: str) -> Choice: ...

    def call(self, call: ToolCallDelta) -> Choice | None:
        """The entry of a tool call, if the dialect knows of calls."""

    def closing(self, reason: FinishReason) -> Choice: ...


class ChatShape:
    """`chat.completion.chunk`. Text that looks like a call and could not be read is content: nothing said is lost."""

    object = "chat.completion.chunk"

    def opening(self) -> Choice:
        return _chat_choice({"role": "assistant", "content": ""})

    def piece(self, channel: Channel, text: str) -> Choice:
        return _chat_choice({"reasoning_content" if channel is Channel.REASONING else "content": text})

    def call(self, call: ToolCallDelta) -> Choice:
        if not call.id:
            return _chat_choice({"tool_calls": [{"index": call.index, "function": {"arguments": call.arguments}}]})
        function = {"name": call.name, "arguments": call.arguments}
        made = {"index": call.index, "id": call.id, "type": "function", "function": function}
        return _chat_choice({"tool_calls": [made]})

    def closing(self, reason: FinishReason) -> Choice:
        return _chat_choice({}, reason)


def _chat_choice(delta: dict[str, Any], reason: FinishReason | None = None) -> Choice:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """`text_completion`. `echo` is the prompt, put before the answer when the request asks for it."""

    echo: str = ""
    object: str = "text_completion"

    def opening(self) -> Choice | None:
        return _text_choice(self.echo) if self.echo else None

    def piece(self, channel: Channel, text: str) -> Choice:
        return _text_choice(text)

    def call(self, call: ToolCallDelta) -> None:
        return None

    def closing(self, reason: FinishReason) -> Choice:
        return _text_choice("", reason)


def _text_choice(text: str, reason: FinishReason | None = None) -> Choice:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


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
    """Feeds on events in batches of any cut, gives chunks. `finished` or `error` says how it ended.

    `calls` are the tool calls so far: each one's name and how many bytes its arguments have.
    """

    def __init__(self, envelope: Envelope, shape: Shape) -> None:
        self.done = False
        self.finished: Finished | None = None
        self.error: InferenceError | None = None
        self.calls: list[tuple[str, int]] = []
        self._shape = shape
        self._opened = False
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
                case Delta(text=text, channel=channel) if text and channel is not self._hidden:
                    self._open(chunks)
                    chunks.append(self._chunk(self._shape.piece(channel, text)))
                case ToolCallDelta():
                    self._call(chunks, event)
                case Finished():
                    self._open(chunks)
                    self._close(chunks, event)
                case Failed(error=error):
                    self.error, self.done = error, True
        return chunks

    def _open(self, chunks: list[Chunk]) -> None:
        if not self._opened:
            self._opened = True
            choice = self._shape.opening()
            if choice is not None:
                chunks.append(self._chunk(choice))

    def _call(self, chunks: list[Chunk], call: ToolCallDelta) -> None:
        written_bytes = len(call.arguments.encode())
        if call.id:
            self.calls.append((call.name, written_bytes))
        else:
            name, before_bytes = self.calls[-1]
            self.calls[-1] = (name, before_bytes + written_bytes)
        choice = self._shape.call(call)
        if choice is not None:
            self._open(chunks)
            chunks.append(self._chunk(choice))

    def _close(self, chunks: list[Chunk], finished: Finished) -> None:
        self.finished, self.done = finished, True
        last = self._chunk(self._shape.closing(finished.reason))
        chunks.append(last)
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

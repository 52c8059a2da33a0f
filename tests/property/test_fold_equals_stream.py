"""A folded answer is what a client adds up from the stream, whatever was said and however it was cut."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inference.events import (
    Admitted,
    Channel,
    Delta,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ToolCallDelta,
    Usage,
)
from mlxd.api.chunks import ChatShape, CompletionShape, Envelope, Reducer, Shape
from mlxd.api.reply import fold
from mlxd.api.sse import EventStream
from mlxd.api.wire import dump

texts = st.text(max_size=12) | st.sampled_from(
    ["data: [DONE]\n\n", "\r\n\r\nevent: x", "\u2028", "\u2029\u0085", '"}\n\ndata: {', "\x00", "</think>", "😀"]
)
counts = st.integers(0, 10**6)
seconds = st.floats(0, 1e6)
usages = st.builds(
    Usage, prompt_tokens=counts, cached_tokens=counts, completion_tokens=counts, reasoning_tokens=counts,
    prefill_s=seconds, decode_s=seconds,
)  # fmt: skip
pieces = st.builds(Delta, text=texts, token_count=st.integers(0, 3), channel=st.sampled_from(Channel))
calls = st.builds(ToolCallDelta, index=st.just(0), id=st.text(min_size=1, max_size=12), name=texts, arguments=texts)
call_pieces = st.lists(texts, max_size=3)

silent = st.lists(st.builds(PrefillProgress, done_tokens=counts, total_tokens=counts), max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """A generation's events, and the same in batches of any cut."""
    said: list[Event] = []
    for event in draw(st.lists(pieces | calls)):
        if not isinstance(event, ToolCallDelta):
            said.append(event)
            continue
        index = sum(isinstance(one, ToolCallDelta) and bool(one.id) for one in said)
        said.append(replace(event, index=index))
        said += [ToolCallDelta(index, "", "", more) for more in draw(call_pieces)]
    finish = Finished(draw(st.sampled_from(FinishReason)), draw(usages))
    events: list[Event] = [Admitted("r", 7), *draw(silent), *said, finish]
    batches: list[list[Event]] = [[]]
    for event in events:
        batches[-1].append(event)
        if draw(st.booleans()):
            batches.append([])
    return events, [batch for batch in batches if batch]


def streamed(batches: list[list[Event]], envelope: Envelope, shape: Shape) -> list[bytes]:
    stream = EventStream(Reducer(envelope, shape), "/v1/chat/completions", "req")
    sent = [stream.frames(batch) for batch in batches]
    assert stream.done and not stream.failed
    return sent


def client_events(body: bytes) -> list[Any]:
    """As a client that splits on every line end Python knows, which is the least careful kind."""
    lines = [line for line in body.decode().splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def added_up(chunks: list[Any]) -> dict[str, Any]:
    """An independent client: concatenates deltas, keeps the last reason and usage."""
    message: dict[str, Any] = {}
    made: dict[int, dict[str, Any]] = {}
    reason = usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            delta = choice.get("delta") or ({"text": choice["text"]} if "text" in choice else {})
            for call in delta.pop("tool_calls", ()):
                begun = made.setdefault(call.pop("index"), call)
                if begun is not call:
                    assert call.keys() == {"function"} and call["function"].keys() == {"arguments"}
                    begun["function"]["arguments"] += call["function"]["arguments"]
            for field, piece in delta.items():
                message[field] = message.get(field, "") + piece
    if made:
        assert list(made) == list(range(len(made)))
        message |= {"content": message["content"] or None, "tool_calls": list(made.values())}
    return {"message": message, "finish_reason": reason, "usage": usage}


@given(generation=conversations(), separate_usage=st.booleans())
def test_chat(generation: tuple[list[Event], list[list[Event]]], separate_usage: bool) -> None:
    events, batches = generation
    folded = fold(Reducer(Envelope("id", "m", 1), ChatShape()).feed(events))
    chunks = client_events(b"".join(streamed(batches, Envelope("id", "m", 1, separate_usage), ChatShape())))
    total = added_up(chunks)
    message = {name: text for name, text in folded["choices"][0]["message"].items() if name != "refusal"}
    assert total["message"] == message
    assert total["finish_reason"] == folded["choices"][0]["finish_reason"]
    assert total["usage"] == folded["usage"]
    said = [event for event in events if isinstance(event, Delta)]
    reasoned = "".join(delta.text for delta in said if delta.channel is Channel.REASONING)
    assert message.get("reasoning_content", "") == reasoned
    assert (message["content"] or "") == "".join(delta.text for delta in said if delta.channel is not Channel.REASONING)
    made: list[ToolCallDelta] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            if not event.id:
                begun = made.pop()
                event = replace(begun, arguments=begun.arguments + event.arguments)
            made.append(event)
    told = [(call["id"], *call["function"].values(), call["type"]) for call in message.get("tool_calls", [])]
    assert told == [(call.id, call.name, call.arguments, "function") for call in made]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert ("reasoning_content" in message) == bool(reasoned)


@given(generation=conversations(), echo=texts)
def test_completions(generation: tuple[list[Event], list[list[Event]]], echo: str) -> None:
    events, batches = generation
    folded = fold(Reducer(Envelope("id", "m", 1), CompletionShape(echo)).feed(events))
    total = added_up(client_events(b"".join(streamed(batches, Envelope("id", "m", 1), CompletionShape(echo)))))
    assert total["message"]["text"] == folded["choices"][0]["text"]
    assert folded["choices"][0]["text"] == echo + "".join(e.text for e in events if isinstance(e, Delta))
    assert total["usage"] == folded["usage"]


@given(generation=conversations())
def test_the_cut_does_not_matter(generation: tuple[list[Event], list[list[Event]]]) -> None:
    events, batches = generation
    envelope = Envelope("id", "m", 1)
    assert b"".join(streamed(batches, envelope, ChatShape())) == streamed([events], envelope, ChatShape())[0]


@given(text=texts | st.text())
def test_one_value_is_one_line_and_comes_back(text: str) -> None:
    sent = dump({"text": text})
    assert len(sent.decode().splitlines()) == 1 and b"\n" not in sent
    assert json.loads(sent) == {"text": text}

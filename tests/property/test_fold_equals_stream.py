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
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from mlxd.api.chunks import ChatShape, CompletionShape, Envelope, Reducer, Shape, usage_object
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
tokens = st.integers(0, 299)
logprobs = st.floats(max_value=0, allow_nan=False)
scored = st.builds(
    TokenLogprob, token=tokens, logprob=logprobs, top=st.lists(st.tuples(tokens, logprobs), max_size=3).map(tuple)
)
pieces = st.builds(
    Delta, text=texts, token_count=st.integers(0, 3), channel=st.sampled_from(Channel),
    logprobs=st.lists(scored, max_size=3).map(tuple),
)  # fmt: skip
calls = st.builds(ToolCallDelta, index=st.just(0), id=st.text(min_size=1, max_size=12), name=texts, arguments=texts)
call_pieces = st.lists(texts, max_size=3)

silent = st.lists(st.builds(PrefillProgress, done_tokens=counts, total_tokens=counts), max_size=3)


class Words:
    """A vocabulary of the 256 bytes and some words; 299 stands for nothing."""

    def token_bytes(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return b"" if token == 299 else f"é{token}".encode()


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """What one answer says before it ends."""
    said: list[Event] = []
    for event in draw(st.lists(pieces | calls)):
        if not isinstance(event, ToolCallDelta):
            said.append(event)
            continue
        index = sum(isinstance(one, ToolCallDelta) and bool(one.id) for one in said)
        said.append(replace(event, index=index))
        said += [ToolCallDelta(index, "", "", more) for more in draw(call_pieces)]
    return said


def numbered(event: Event, choice: int) -> Event:
    return replace(event, choice=choice) if isinstance(event, Delta | ToolCallDelta | Finished) else event


@st.composite
def conversations(draw: st.DrawFn, choices: int = 1) -> tuple[list[Event], list[list[Event]]]:
    """A generation's events, its answers told in turn of any order, and the same in batches of any cut."""
    left: list[list[Event]] = []
    for choice in range(choices):
        finish = Finished(draw(st.sampled_from(FinishReason)), draw(usages))
        left.append([numbered(event, choice) for event in (*draw(answers()), finish)])
    events: list[Event] = [Admitted("r", 7), *draw(silent)]
    while left := [answer for answer in left if answer]:
        events.append(left[draw(st.integers(0, len(left) - 1)) if len(left) > 1 else 0].pop(0))
    return events, draw(cuts(events))


@st.composite
def cuts(draw: st.DrawFn, events: list[Event]) -> list[list[Event]]:
    batches: list[list[Event]] = [[]]
    for event in events:
        batches[-1].append(event)
        if draw(st.booleans()):
            batches.append([])
    return [batch for batch in batches if batch]


def of_choice(events: list[Event], choice: int) -> list[Event]:
    return [event for event in events if getattr(event, "choice", choice) == choice]


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
    """An independent client that asked for one answer: concatenates deltas, keeps the last reason and usage."""
    message: dict[str, Any] = {}
    made: dict[int, dict[str, Any]] = {}
    scores: dict[str, Any] | None = None
    reason = usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            if choice["logprobs"] is not None:
                scores = scores or {}
                for name, listed in choice["logprobs"].items():
                    scores[name] = listed if listed is None else scores.get(name, []) + listed
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
    return {"message": message, "finish_reason": reason, "usage": usage, "logprobs": scores}


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


@given(st.data(), st.integers(1, 4), st.booleans(), st.booleans())
def test_several_answers(data: st.DataObject, choices: int, separate_usage: bool, chat: bool) -> None:
    """What a client adds up of each answer is what is folded of it, and what it would be if it were the only one."""
    events, batches = data.draw(conversations(choices))

    def shape() -> Shape:
        return ChatShape(Words()) if chat else CompletionShape("Once", Words())

    folded = fold(Reducer(Envelope("id", "m", 1, choices=choices), shape()).feed(events))
    chunks = client_events(
        b"".join(streamed(batches, Envelope("id", "m", 1, separate_usage, choices=choices), shape()))
    )
    assert [choice["index"] for choice in folded["choices"]] == list(range(choices))
    for number, choice in enumerate(folded["choices"]):
        mine = [{**one, "choices": [c for c in one["choices"] if c["index"] == number]} for one in chunks]
        total = added_up(mine)
        assert json.loads(dump(total["logprobs"])) == json.loads(dump(choice["logprobs"]))
        assert total["finish_reason"] == choice["finish_reason"]
        alone = fold(Reducer(Envelope("id", "m", 1), shape()).feed(of_choice(events, number)))
        assert {**alone["choices"][0], "index": number} == choice
        if chat:
            told = {name: text for name, text in choice["message"].items() if name != "refusal"}
            assert total["message"] == told
        else:
            assert total["message"]["text"] == choice["text"]
    last = next(event for event in reversed(events) if isinstance(event, Finished))
    assert folded["usage"] == added_up(chunks)["usage"] == usage_object(last.usage)
    assert sum(bool(chunk.get("usage")) for chunk in chunks) == 1


@given(generation=conversations())
def test_every_token_of_the_content_is_scored_in_order(generation: tuple[list[Event], list[list[Event]]]) -> None:
    events, _ = generation
    deltas = [event for event in events if isinstance(event, Delta) and event.text]
    chat = fold(Reducer(Envelope("id", "m", 1), ChatShape(Words())).feed(events))["choices"][0]["logprobs"]
    expected = [one for delta in deltas if delta.channel is not Channel.REASONING for one in delta.logprobs]
    assert (chat["content"] if chat else []) == [
        {
            "token": Words().token_bytes(one.token).decode(errors="backslashreplace"),
            "logprob": max(one.logprob, -9999.0),
            "bytes": list(Words().token_bytes(one.token)),
            "top_logprobs": [
                {
                    "token": Words().token_bytes(token).decode(errors="backslashreplace"),
                    "logprob": max(logprob, -9999.0),
                    "bytes": list(Words().token_bytes(token)),
                }
                for token, logprob in one.top
            ],
        }
        for one in expected
    ]
    plain = fold(Reducer(Envelope("id", "m", 1), ChatShape()).feed(events))["choices"][0]["logprobs"]
    assert plain is None, "who did not ask is not told"


@given(text=st.text(max_size=30), echo=st.text(max_size=5))
def test_offsets_point_into_the_text(text: str, echo: str) -> None:
    """Tokens of one byte: each stands where its character does, the bytes behind a first one where that ends."""
    raw = text.encode()
    told = [
        Delta(text, logprobs=tuple(TokenLogprob(byte, -1.0) for byte in raw)),
        Finished(FinishReason.STOP, Usage(1)),
    ]
    answer = fold(Reducer(Envelope("id", "m", 1), CompletionShape(echo, Words())).feed(told))["choices"][0]
    assert answer["text"] == echo + text
    if not text:
        assert answer["logprobs"] is None
        return
    for at, offset in enumerate(answer["logprobs"]["text_offset"]):
        whole = raw[:at].decode(errors="ignore")
        assert offset == len(echo) + len(whole)


@given(raw=st.binary(max_size=30) | st.text(max_size=10).map(str.encode))
def test_offsets_bear_broken_characters(raw: bytes) -> None:
    text = raw.decode(errors="replace")
    told = [
        Delta(text, logprobs=tuple(TokenLogprob(byte, -1.0) for byte in raw)),
        Finished(FinishReason.STOP, Usage(1)),
    ]
    answer = fold(Reducer(Envelope("id", "m", 1), CompletionShape("", Words())).feed(told))["choices"][0]
    for byte, offset in zip(raw, answer["logprobs"]["text_offset"] if raw else (), strict=True):
        assert byte >= 128 or text[offset] == chr(byte)


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

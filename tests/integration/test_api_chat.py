"""Generations through the real application: Django, ninja, the consumer; only the runtime follows a script."""

from __future__ import annotations

import threading

import pytest

from inference.events import Admitted, Channel, Delta, Finished, FinishReason, Usage
from mlxd.api import policy
from mlxd.api.strict_json import parse_object
from tests.integration.api_scripted import PROMPT_TOKENS, StandIn, chat, post, said

CHAT, RAW = "/v1/chat/completions", "/v1/completions"


async def test_a_folded_answer(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat(max_tokens=50))
    assert answer.status == 200
    body = answer.json()
    assert body["id"].startswith("chatcmpl-") and len(body["id"]) == 9 + 32
    assert body["object"] == "chat.completion" and body["model"] == "tiny"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": 2,
        "total_tokens": PROMPT_TOKENS + 2,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "tokens_per_second": 8.0,
    }
    assert answer.headers["x-conv-kv"] == "none"
    assert answer.headers["x-conv-cached-tokens"] == "0"
    assert answer.headers["x-conv-processing-tokens"] == str(PROMPT_TOKENS)
    assert "x-mlxd-max-tokens" not in answer.headers
    assert stand_in.asked[0]["request_id"] == "req_test"


async def test_a_streamed_answer(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat(stream=True))
    assert answer.status == 200 and answer.complete and answer.error is None
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-conv-kv"] == "none"
    assert "content-length" not in answer.headers
    *chunks, done = answer.events()
    assert done is None and answer.body.endswith(b"data: [DONE]\n\n")
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1]["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert stand_in.made[0].cancelled, "a finished generation is let go of"


async def test_usage_has_a_chunk_of_its_own_on_request(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat(stream=True, stream_options={"include_usage": True}))
    *chunks, last, _ = answer.events()
    assert last["choices"] == [] and last["usage"]["total_tokens"] == PROMPT_TOKENS + 2
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_what_is_ready_together_travels_together(stand_in: StandIn) -> None:
    first, a, b, c, end = said("a", "b", "c")
    stand_in.script = [first, 0.01, a, b, 0.01, c, end]
    answer = await post(CHAT, chat(stream=True))
    sent = [body for body in answer.bodies if b"data:" in body]
    assert len(sent) == 2
    assert sent[0].count(b"data:") == 3 and sent[1].count(b"data:") == 3


async def test_reasoning_has_its_own_field(stand_in: StandIn) -> None:
    first, *_, end = said()
    stand_in.script = [first, Delta("Let me think.", channel=Channel.REASONING), Delta("42"), end]
    folded = (await post(CHAT, chat())).json()["choices"][0]["message"]
    assert folded == {"role": "assistant", "content": "42", "reasoning_content": "Let me think.", "refusal": None}
    deltas = [e["choices"][0]["delta"] for e in (await post(CHAT, chat(stream=True))).events()[:-1]]
    assert {"reasoning_content": "Let me think."} in deltas


async def test_reasoning_is_left_out_where_the_policy_says_so_and_still_counted(stand_in: StandIn) -> None:
    policy.install(policy.Policy(strip_thinking=True))
    usage = Usage(PROMPT_TOKENS, completion_tokens=5, reasoning_tokens=4)
    thought = Delta("Let me think.", 4, Channel.REASONING)
    stand_in.script = [Admitted("r", PROMPT_TOKENS), thought, Delta("42"), Finished(FinishReason.STOP, usage)]
    folded = (await post(CHAT, chat())).json()
    assert folded["choices"][0]["message"] == {"role": "assistant", "content": "42", "refusal": None}
    assert folded["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    events = (await post(CHAT, chat(stream=True))).events()[:-1]
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""}, {"content": "42"}, {},
    ]  # fmt: skip
    assert events[-1]["usage"] == folded["usage"]


async def test_a_clamped_limit_is_told(stand_in: StandIn) -> None:
    for stream in (False, True):
        answer = await post(CHAT, chat(max_completion_tokens=64_000, stream=stream))
        assert answer.headers["x-mlxd-max-tokens"] == "100"


async def test_a_body_in_pieces_is_one_body(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat(stream=True), pieces=7)
    assert answer.status == 200 and answer.events()[-1] is None


async def test_a_large_body_is_read_off_the_loop(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxd.api import generate

    readers: list[int] = []

    def watched(raw: bytes) -> dict[str, object]:
        readers.append(threading.get_ident())
        return parse_object(raw)

    monkeypatch.setattr(generate, "parse_object", watched)
    for messages in (10, 6000):
        body = chat(messages=[{"role": "user", "content": "word " * 100} for _ in range(messages)])
        assert (await post(CHAT, body)).status == 200
        assert len(stand_in.asked[-1]["conversation"].messages) == messages
    small, large = readers
    assert small == threading.get_ident() != large


async def test_usage_of_a_single_token_has_a_speed(stand_in: StandIn) -> None:
    usage = Usage(7, completion_tokens=1, prefill_s=0.5, decode_s=0.0)
    stand_in.script = [Admitted("r", 7), Delta("x"), Finished(FinishReason.LENGTH, usage)]
    assert (await post(CHAT, chat())).json()["usage"]["tokens_per_second"] == 2.0


# --- completions --------------------------------------------------------------------------------------------------


async def test_a_raw_completion(stand_in: StandIn) -> None:
    answer = await post(RAW, {"prompt": "Once", "max_tokens": 5})
    body = answer.json()
    assert body["id"].startswith("cmpl-") and body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}]
    assert stand_in.asked[0]["raw_prompt"] == "Once" and stand_in.asked[0]["conversation"] is None


async def test_a_raw_completion_streamed_with_echo(stand_in: StandIn) -> None:
    answer = await post(RAW, {"prompt": ["Once "], "echo": True, "stream": True})
    *chunks, done = answer.events()
    assert done is None and {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Once Hello world"
    folded = await post(RAW, {"prompt": "Once ", "echo": True})
    assert folded.json()["choices"][0]["text"] == "Once Hello world"


async def test_a_prompt_of_token_ids(stand_in: StandIn) -> None:
    for prompt in ([1, 2, 3], [[1, 2, 3]]):
        assert (await post(RAW, {"prompt": prompt})).status == 200
        assert stand_in.asked[-1]["raw_prompt"] == (1, 2, 3)

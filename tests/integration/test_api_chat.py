"""Generations through the real application: Django, ninja, the consumer; only the runtime follows a script."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from inference.errors import (
    EngineFatal,
    GenerationFailed,
    MemoryPressure,
    ModelTooLarge,
    PromptTooLong,
    QueueFull,
    TemplateFailed,
)
from inference.events import Admitted, Channel, Delta, Finished, FinishReason, PrefillProgress, ToolCallDelta, Usage
from mlxd import runtime
from mlxd.api import policy
from mlxd.api.strict_json import parse_object
from mlxd.streams import StreamBroken
from mlxd.transport.errors import ClientDisconnected
from tests.integration.api_scripted import BROKEN, PROMPT_TOKENS, Call, StandIn, chat, get, post, said

CHAT, RAW = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    yield made
    runtime.install(None)
    policy.install(policy.Policy())


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


# --- what the runtime refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (QueueFull("Too many requests wait.", retry_after_s=3), 503, "queue_full", "server_error"),
        (MemoryPressure("No memory is left.", retry_after_s=99), 503, "memory_pressure", "server_error"),
        (PromptTooLong(5000, 4096), 400, "context_length_exceeded", "invalid_request_error"),
        (TemplateFailed("The chat template failed."), 400, "template_failed", "invalid_request_error"),
        (ModelTooLarge("It needs more memory."), 400, "model_too_large", "invalid_request_error"),
        (EngineFatal("The engine is rebuilt."), 500, "engine_fatal", "server_error"),
        (RuntimeError("secret prompt text"), 500, "internal_error", "server_error"),
    ],
)
async def test_refusals_of_the_runtime(
    stand_in: StandIn, stream: bool, error: Exception, status: int, code: str, kind: str
) -> None:
    stand_in.opening = [error]
    answer = await post(CHAT, chat(stream=stream))
    assert answer.status == status and answer.complete
    assert answer.refusal["code"] == code and answer.refusal["type"] == kind
    assert b"secret" not in answer.body and "text/html" not in answer.headers["content-type"]
    assert answer.headers.get("retry-after") == {"queue_full": "3", "memory_pressure": "30"}.get(code)
    assert answer.headers.get("x-should-retry") == ("false" if code == "model_too_large" else None)


async def test_an_unexpected_error_tells_its_request_id(stand_in: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    stand_in.opening = [ValueError("secret prompt text")]
    with capture_logs() as written:
        answer = await post(CHAT, chat())
    assert "req_test" in answer.refusal["message"]
    assert (written[0]["error"], written[0]["request_id"]) == ("ValueError", "req_test")
    assert "secret" not in caplog.text + str(written)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[BROKEN], [Admitted("r", 7), BROKEN]])
async def test_a_failure_before_any_output_is_a_status(stand_in: StandIn, stream: bool, script: list[object]) -> None:
    stand_in.script = script  # type: ignore[assignment]
    answer = await post(CHAT, chat(stream=stream))
    assert answer.status == 500 and answer.refusal["code"] == "generation_failed"
    assert stand_in.made[0].cancelled


# --- errors in a stream -----------------------------------------------------------------------------------------


async def test_a_failure_in_the_stream_is_told_and_breaks_the_connection(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), Delta("Hel"), 0.01, BROKEN]
    answer = await post(CHAT, chat(stream=True))
    assert answer.status == 200
    assert isinstance(answer.error, StreamBroken), "the transport has to know"
    assert not answer.complete and b"[DONE]" not in answer.body
    assert answer.events()[-1]["error"]["code"] == "generation_failed"
    assert all(event["choices"][0]["finish_reason"] is None for event in answer.events()[:-1])


async def test_an_exception_after_the_first_byte_is_told_too(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.script = [Admitted("r", 7), Delta("Hel"), 0.01, AttributeError("secret prompt text")]
    with capture_logs() as written:
        answer = await post(CHAT, chat(stream=True))
    assert isinstance(answer.error, StreamBroken) and not answer.complete
    assert answer.events()[-1]["error"]["code"] == "internal_error"
    assert b"secret" not in answer.body and "secret" not in caplog.text + str(written)
    assert written[0]["error"] == "AttributeError"
    assert stand_in.made[0].cancelled


async def test_an_exception_before_the_first_byte_is_a_status(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlxd import streams

    async def broken(*_: object) -> None:
        raise AttributeError("secret prompt text")

    monkeypatch.setattr(streams.StreamConsumer, "pass_on", broken)
    answer = await post(CHAT, chat(stream=True))
    assert answer.status == 500 and answer.complete and answer.refusal["code"] == "internal_error"
    assert b"secret" not in answer.body


async def test_a_source_that_just_ends_is_a_failure(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), Delta("Hel"), 0.01, StopAsyncIteration()]
    answer = await post(CHAT, chat(stream=True))
    assert isinstance(answer.error, StreamBroken)
    assert answer.events()[-1]["error"]["code"] == "generation_failed"


async def test_a_folded_failure_is_a_status(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), Delta("Hel"), 0.01, BROKEN]
    answer = await post(CHAT, chat())
    assert answer.status == 500 and answer.complete and b"Hel" not in answer.body


# --- the two traps ----------------------------------------------------------------------------------------------


async def test_generations_of_one_token_never_lose_their_stream(stand_in: StandIn) -> None:
    stand_in.script = said("x", reason=FinishReason.LENGTH)
    for start in range(0, 400, 20):
        calls = [
            Call("POST", CHAT, json.dumps(chat(stream=bool(i % 2), max_tokens=1)).encode()).start()
            for i in range(start, start + 20)
        ]
        for i, call in enumerate(calls):
            answer = await call.result()
            assert answer.status == 200 and answer.complete
            if i % 2:
                assert answer.events()[-1] is None and answer.events()[1]["choices"][0]["delta"] == {"content": "x"}
            else:
                assert answer.json()["choices"][0]["message"]["content"] == "x"
    assert len(stand_in.made) == 400


# --- disconnects ------------------------------------------------------------------------------------------------


async def gone(call: Call, after_s: float) -> float:
    """Seconds from the client's leaving to the end of everything about its request."""
    await asyncio.sleep(after_s)
    assert call.task is not None and not call.task.done()
    loop = asyncio.get_running_loop()
    left_s = loop.time()
    call.disconnect()
    await call.result()
    return loop.time() - left_s


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_while_preparing(stand_in: StandIn, stream: bool) -> None:
    stand_in.opening = [30.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=stream)).encode()).start()
    assert await gone(call, 0.2) < 0.5
    assert stand_in.abandoned == 1 and not stand_in.made
    assert call.answer.error is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param([60.0], id="queue"),
        pytest.param([Admitted("r", 7), 0.01, PrefillProgress(1, 7), 60.0], id="prefill"),
        pytest.param([Admitted("r", 7), 0.01, Delta("a"), 0.01, Delta("b"), 60.0], id="decode"),
    ],
)
async def test_disconnect_cancels_the_generation(stand_in: StandIn, stream: bool, script: list[object]) -> None:
    stand_in.script = script  # type: ignore[assignment]
    before = len(asyncio.all_tasks())
    call = Call("POST", CHAT, json.dumps(chat(stream=stream)).encode()).start()
    assert await gone(call, 0.2) < 0.5
    assert stand_in.made[0].cancelled
    assert len(asyncio.all_tasks()) == before, "nothing of a request outlives its connection"


async def test_disconnect_before_the_body_is_whole(stand_in: StandIn) -> None:
    call = Call("POST", CHAT)
    call.incoming.get_nowait()
    call.incoming.put_nowait({"type": "http.request", "body": b'{"mess', "more_body": True})
    call.start()
    assert await gone(call, 0.05) < 0.5
    assert not stand_in.asked and not call.answer.messages


async def test_a_send_that_fails_ends_the_generation(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), *([0.001, Delta("a")] * 500), 60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=True)).encode())
    call.fail_after, call.failure = 5, ClientDisconnected("gone")
    answer = await call.start().result()
    assert isinstance(answer.error, ClientDisconnected) and len(answer.messages) == 5
    assert stand_in.made[0].cancelled


async def test_a_cancelled_application_cancels_the_generation(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), Delta("a"), 60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=True)).encode()).start()
    await asyncio.sleep(0.1)
    assert call.task is not None
    call.task.cancel()
    await call.result()
    assert stand_in.made[0].cancelled


# --- keep-alive -------------------------------------------------------------------------------------------------


async def test_silence_is_filled_by_the_clock(stand_in: StandIn) -> None:
    policy.install(policy.Policy(keepalive_s=0.1))
    first, a, end = said("a")
    progress = [step for i in range(40) for step in (PrefillProgress(i, 40), 0.025)]
    stand_in.script = [first, 1.0, *progress, a, end]
    answer = await post(CHAT, chat(stream=True))
    assert answer.status == 200 and answer.complete
    gaps_s = [after - before for before, after in zip(answer.at_s, answer.at_s[1:], strict=False)]
    assert max(gaps_s) < 0.1 * 10
    assert answer.bodies.count(b": ping\n\n") >= 10, "also while nothing comes, and while only progress comes"
    assert answer.at_s[1] - answer.at_s[0] < 0.1, "headers reach the client with the first byte, so it goes at once"


async def test_progress_without_text_is_silence_too(stand_in: StandIn) -> None:
    policy.install(policy.Policy(keepalive_s=0.002))
    first, *_, end = said()
    stand_in.script = [first, *(step for i in range(5000) for step in (0.0, PrefillProgress(i, 5000))), 0.0, end]
    answer = await post(CHAT, chat(stream=True))
    assert answer.bodies.count(b": ping\n\n") >= 3, "batches that are always ready must not keep the ping away"


async def test_a_talking_stream_has_no_pings(stand_in: StandIn) -> None:
    policy.install(policy.Policy(keepalive_s=0.5))
    stand_in.script = [*said("a")[:1], *([Delta("a"), 0.005] * 100), said()[-1]]
    answer = await post(CHAT, chat(stream=True))
    assert b": ping" not in answer.body and len(answer.events()) == 100 + 3


# --- completions ------------------------------------------------------------------------------------------------


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


# --- the rest of the surface ------------------------------------------------------------------------------------


async def test_models(stand_in: StandIn) -> None:
    listed = (await get("/v1/models")).json()
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": "mlxd"}
    assert (await get("/v1/models/owner/other")).json()["id"] == "owner/other"
    missing = await get("/v1/models/absent/model")
    assert missing.status == 404 and missing.refusal["code"] == "model_not_found"
    assert missing.refusal["type"] == "not_found_error"


async def test_health(stand_in: StandIn) -> None:
    assert (await get("/health/live")).json() == {"status": "ok"}
    assert (await get("/health/ready")).json() == {"status": "ready"}
    assert (await get("/health")).json() == {"status": "ok", "ready": True}
    stand_in.ready = (False, "model_loading")
    loading = await get("/health/ready")
    assert loading.status == 503 and loading.json() == {"status": "not_ready", "reason": "model_loading"}
    health = await get("/health")
    assert health.status == 200 and health.json() == {"status": "model_loading", "ready": False}
    stand_in.alive = False
    assert (await get("/health/live")).status == 503 and (await get("/health")).status == 503


async def test_health_before_there_is_a_runtime() -> None:
    runtime.install(None)
    assert (await get("/health/live")).status == 200
    assert (await get("/health/ready")).json() == {"status": "not_ready", "reason": "starting"}
    assert (await get("/health")).status == 200
    refused = await post(CHAT, chat())
    assert refused.status == 503 and refused.refusal["code"] == "model_loading" and refused.headers["retry-after"]


async def test_usage_of_a_single_token_has_a_speed(stand_in: StandIn) -> None:
    usage = Usage(7, completion_tokens=1, prefill_s=0.5, decode_s=0.0)
    stand_in.script = [Admitted("r", 7), Delta("x"), Finished(FinishReason.LENGTH, usage)]
    assert (await post(CHAT, chat())).json()["usage"]["tokens_per_second"] == 2.0


async def test_generation_failed_is_not_a_secret(stand_in: StandIn) -> None:
    stand_in.script = [GenerationFailed("The sampler failed.")]
    answer = await post(CHAT, chat())
    assert answer.status == 500 and answer.refusal["message"] == "The sampler failed."


# --- the line in the log ----------------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    from mlxd import access_log

    written: list[dict[str, object]] = []
    monkeypatch.setattr(access_log, "log_request", lambda **facts: written.append(facts))
    return written


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_leaves_one_line(stand_in: StandIn, lines: list[dict[str, object]], stream: bool) -> None:
    await post(CHAT, chat(stream=stream))
    (line,) = lines
    assert line.pop("duration_ms") > 0  # type: ignore[operator]
    assert re.fullmatch("[0-9a-f]{12}", str(line.pop("conv")))
    assert line == {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "model": "tiny",
        "stream": stream,
        "prompt_tokens": PROMPT_TOKENS,
        "cached_tokens": 0,
        "lost_tokens": 0,
        "verdict": "none",
        "completion_tokens": 2,
        "queue_ms": 0.0,
        "ttft_ms": 500.0,
        "decode_tps": 8.0,
        "finish_reason": "stop",
        "error": None,
    }


async def test_what_went_wrong_is_in_the_line(stand_in: StandIn, lines: list[dict[str, object]]) -> None:
    await post(CHAT, chat(temperature=9))
    await get("/v1/absent")
    stand_in.script = [Admitted("r", 7), Delta("x"), 0.01, BROKEN]
    await post(CHAT, chat(stream=True))
    stand_in.script = [60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=True)).encode()).start()
    await gone(call, 0.1)
    told = [(line["status"], line["route"], line["error"]) for line in lines]
    assert told == [
        (400, "/v1/chat/completions", "invalid_value"),
        (404, "(none)", None),
        (200, "/v1/chat/completions", "generation_failed"),
        (499, "/v1/chat/completions", None),
    ]


async def test_a_call_is_told_and_logged_by_name_and_size(
    stand_in: StandIn, lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("mlxd.access_log.log_tool_call", lambda name, size: seen.append((name, size)))
    script = said(reason=FinishReason.TOOL_CALLS)
    script.insert(1, ToolCallDelta(0, "call01", "look", '{"at": "é"}'))
    stand_in.script = script
    call = {"id": "call01", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    (choice,) = (await post(CHAT, chat())).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    chunks = (await post(CHAT, chat(stream=True))).events()
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, **call}]},
    ]
    assert seen == [("look", 12)] * 2 and "é" not in str(lines)


async def test_looking_is_not_logged(stand_in: StandIn, lines: list[dict[str, object]]) -> None:
    await get("/health/live")
    await get("/health")
    assert not lines
    stand_in.alive = False
    await get("/health/live")
    assert [line["status"] for line in lines] == [503]

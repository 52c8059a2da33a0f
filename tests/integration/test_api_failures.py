"""What the runtime refuses and what fails under way, through the real application: a status, or a broken stream."""

from __future__ import annotations

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
from inference.events import Admitted, Delta
from mlxd.streams import StreamBroken
from tests.integration.api_scripted import BROKEN, StandIn, chat, post

CHAT = "/v1/chat/completions"


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


async def test_generation_failed_is_not_a_secret(stand_in: StandIn) -> None:
    stand_in.script = [GenerationFailed("The sampler failed.")]
    answer = await post(CHAT, chat())
    assert answer.status == 500 and answer.refusal["message"] == "The sampler failed."


# --- errors in a stream -------------------------------------------------------------------------------------------


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

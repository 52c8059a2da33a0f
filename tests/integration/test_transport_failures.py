"""What clients see when an application fails, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import openai
import pytest

from tests.integration.transport_client import SHORT, Raw, Served, eventually, parse


@pytest.mark.parametrize("path", ["/fail-early", "/fail-started", "/no-answer"])
def test_a_failure_before_the_first_byte_is_a_json_500(served: Served, path: str) -> None:
    with Raw(served.port) as raw:
        for _ in range(2):  # and the connection lives on
            raw.request(f"GET {path}")
            answer = parse(raw.until(b"}}"))
            assert answer.status == 500
            assert answer.error == {
                "message": "The server failed to answer this request.", "type": "server_error", "param": None,
                "code": "internal_error",
            }  # fmt: skip


@pytest.mark.parametrize("path", ["/fail-late", "/half-answer"])
def test_a_failure_after_the_first_byte_is_a_reset(served: Served, path: str) -> None:
    with Raw(served.port) as raw:
        raw.request(f"GET {path}")
        raw.until_end()
        assert raw.ended == "reset"


def test_the_reset_waits_until_a_slow_reader_has_heard_why(served: Served) -> None:
    with Raw(served.port, receive_buffer_bytes=4096) as raw:
        raw.request("GET /fail-behind")
        time.sleep(0.3)
        received = raw.until_end()
        assert raw.ended == "reset"
        assert received.count(b"x") >= 60_000
        assert b"last words" in received


def test_an_answer_shorter_than_promised_is_a_reset(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.request("GET /short")
        raw.until_end()
        assert raw.ended == "reset"


def test_an_answer_may_come_before_the_body_is_read(serve: Callable[..., Served]) -> None:
    server = serve(limits=SHORT)
    assert httpx.post(f"{server.url}/eager", content=b"x" * 500_000, timeout=60).json() == {"early": True}
    eventually(lambda: ["eager-then", "http.disconnect"] in server.state()["events"])


def test_the_openai_client_does_not_take_a_torn_stream_for_a_whole_one(served: Served) -> None:
    """A clean end without `[DONE]` is success to it; a reset is not."""
    with openai.OpenAI(base_url=f"{served.url}/torn/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            list(stream)


def test_the_openai_client_reaches_models_with_a_slash_in_their_id(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.models.with_raw_response.retrieve("org/name-4bit")
    assert json.loads(answer.content)["path"] == "/v1/models/org/name-4bit"


def test_the_log_names_class_and_request_but_not_the_message(serve: Callable[..., Served]) -> None:
    server = serve(limits=SHORT)
    request_id = httpx.get(f"{server.url}/fail-early", timeout=60).headers["x-request-id"]
    server.stop()
    [line] = [line for line in server.log.splitlines() if request_id in line]
    assert "RuntimeError" in line
    assert "secret" not in server.log

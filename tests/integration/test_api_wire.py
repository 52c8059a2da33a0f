"""The API over real sockets: daphne, the consumer, the official SDK, and clients that leave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

SCRIPT = Path(__file__).with_name("api_app.py")
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "mlxd.settings"}
    process = subprocess.Popen([sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield int(json.loads(process.stdout.readline())["port"])
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture
def sdk(port: int) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="dummy", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as made:
        yield made


def let_go(client: httpx.Client, port: int) -> tuple[int, int]:
    """Generations made and let go of so far."""
    reason = client.get(f"http://127.0.0.1:{port}/health/ready").json()["reason"].split()
    return int(reason[0]), int(reason[2])


def until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.01)


def test_the_sdk_reads_a_folded_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="short", messages=MESSAGES)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "Hello world" and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 9 and answer.usage.prompt_tokens_details.cached_tokens == 0


def test_the_sdk_reads_a_stream(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        model="short",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream_options={"include_usage": True},
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello world"
    assert final.usage is not None and final.usage.total_tokens == 9


def test_the_sdk_reads_a_raw_completion(sdk: openai.OpenAI) -> None:
    chunks = sdk.completions.create(model="short", prompt="Say: ", stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Say: Hello world"
    assert [model.id for model in sdk.models.list()] == ["tiny", "owner/other"]
    assert sdk.models.retrieve("owner/other").id == "owner/other"


@pytest.mark.parametrize("model", ["breaks-at-once", "breaks-later", "dies"])
def test_an_error_in_the_stream_reaches_the_sdk(sdk: openai.OpenAI, model: str) -> None:
    said = ""
    with pytest.raises(openai.APIError) as raised:
        for chunk in sdk.chat.completions.create(model=model, messages=MESSAGES, stream=True):  # type: ignore[call-overload]
            said += chunk.choices[0].delta.content or ""
    assert said.startswith("Hel")
    assert "failed" in raised.value.message and "secret" not in raised.value.message


@pytest.mark.parametrize("model", ["breaks-at-once", "breaks-later", "dies"])
def test_a_broken_stream_has_no_clean_end(port: int, client: httpx.Client, model: str) -> None:
    """Ten times, because what is lost in a reset is lost only sometimes."""
    for _ in range(10):
        received = b""
        ask = {"model": model, "messages": MESSAGES, "stream": True}
        with (
            pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)),
            client.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=ask) as response,
        ):
            for piece in response.iter_raw():
                received += piece
        assert b'data: {"error"' in received and b"[DONE]" not in received


@pytest.mark.parametrize("model", ["slow", "silent"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_leaving_cancels(port: int, client: httpx.Client, model: str, stream: bool, how: str) -> None:
    made, gone = let_go(client, port)
    body = json.dumps({"model": model, "messages": MESSAGES, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    leaving = socket.create_connection(("127.0.0.1", port))
    try:
        leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: let_go(client, port)[0] == made + 1)
        if stream:
            assert leaving.recv(100).startswith(b"HTTP/1.1 200")
        if how == "half-close":
            leaving.shutdown(socket.SHUT_WR)
        elif how == "reset":
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            leaving.close()
        else:
            leaving.close()
        until(lambda: let_go(client, port)[1] == gone + 1)
    finally:
        leaving.close()


def test_a_silent_stream_is_kept_alive(port: int) -> None:
    pings = 0
    with httpx.stream(
        "POST",
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json={"model": "silent", "messages": MESSAGES, "stream": True},
        timeout=60,
    ) as response:
        assert response.headers["x-request-id"].startswith("req_") and response.headers["x-conv-kv"] == "none"
        for line in response.iter_lines():
            pings += line == ": ping"
            if pings == 3:
                break
    assert pings == 3

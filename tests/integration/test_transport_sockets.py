"""WebSockets on the real transport."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.integration.transport_client import Raw, Served, eventually, parse, socket_to


def test_sockets_talk_and_end(served: Served) -> None:
    with socket_to(served) as ws:
        ws.send("hello")
        assert ws.recv(timeout=60) == "hello"
        assert served.state()["in_flight"] == 1
    eventually(lambda: "ws-ended" in served.events())


def test_the_root_path_header_has_no_effect_on_sockets(served: Served) -> None:
    own = f"http://127.0.0.1:{served.port}"
    extra = {"Daphne-Root-Path": "/ws"}
    with connect(f"ws://127.0.0.1:{served.port}/ws/live", origin=own, additional_headers=extra) as ws:  # type: ignore[arg-type]
        greeting = json.loads(ws.recv(timeout=60))
    assert (greeting["path"], greeting["root_path"]) == ("/ws/live", "")


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/ws/live", "http://evil.com", 403),
        ("/ws/live", "null", 403),
        ("/ws/live", None, 403),
        ("/ws/live", "http://127.0.0.1:1", 403),
        ("/ws/refuse", "", 403),
        ("/ws/broken", "", 500),
    ],
)
def test_refused_sockets_get_json(served: Served, path: str, origin: str | None, status: int) -> None:
    with pytest.raises(InvalidStatus) as raised, socket_to(served, path, origin):
        pass
    response = raised.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.body is not None
    assert set(json.loads(response.body)["error"]) == {"message", "type", "param", "code"}


def test_a_handshake_without_a_key_is_answered(served: Served) -> None:
    own = f"http://127.0.0.1:{served.port}"
    lines = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Origin: {own}"]
    with Raw(served.port) as raw:
        raw.request("GET /ws/live", *lines)
        answer = parse(raw.until_end())
    assert answer.status == 400
    assert answer.error["code"] == "invalid_handshake"


def test_a_failing_socket_is_closed_with_1011(served: Served) -> None:
    with socket_to(served) as ws:
        ws.send("break")
        with pytest.raises(ConnectionClosed) as raised:
            ws.recv(timeout=60)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1011


def test_a_message_too_long_ends_the_socket(served: Served) -> None:
    with socket_to(served) as ws, pytest.raises(ConnectionClosed) as raised:
        ws.send("x" * 1_100_000)
        ws.recv(timeout=60)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1009


def test_a_dead_socket_is_noticed(serve: Callable[..., Served]) -> None:
    server = serve(limits={"websocket_ping_s": 0.3, "websocket_silence_s": 3.0})
    with Raw(server.port) as raw:
        lines = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        raw.request("GET /ws/live", *lines, key, f"Origin: http://127.0.0.1:{server.port}")
        raw.until_end()  # reads pings and answers none
        assert raw.ended == "reset"
    with socket_to(server) as ws:  # this client answers
        time.sleep(4)
        ws.send("alive")
        assert ws.recv(timeout=60) == "alive"


def test_sockets_do_not_hold_up_a_drain(serve: Callable[..., Served]) -> None:
    server = serve()
    with socket_to(server) as ws:
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 60
        with pytest.raises(ConnectionClosed) as raised:
            ws.recv(timeout=60)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1001

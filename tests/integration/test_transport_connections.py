"""Connections: kept, pipelined, too many, and left by their clients."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from tests.integration.transport_client import SHORT, Raw, Served, eventually, exchange, parse

# ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_hundred_requests_on_one_connection(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        ports = {client.get("/echo").json()["client"][1] for _ in range(200)}
    assert len(ports) == 1
    eventually(lambda: served.state()["tasks"] == 1)


def test_two_pipelined_requests_are_answered_in_order(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.request("GET /stream?n=2")
        raw.request("GET /echo", "Connection: close")
        received = raw.until_end()
    assert received.index(b"done") < received.index(b'"path": "/echo"')


def test_heads_and_empty_answers_keep_the_connection_in_step(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.request("HEAD /big?bytes=1000")
        raw.request("GET /no-content")
        raw.request("GET /echo", "Connection: close")
        first, second, third = raw.until_end().split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert second.startswith(b"204")
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\n")
    assert b'"path": "/echo"' in third


def test_http_1_0_ends_with_the_connection(served: Served) -> None:
    answer = exchange(served.port, f"GET /stream?n=2 HTTP/1.0\r\nHost: 127.0.0.1:{served.port}\r\n\r\n")
    assert answer.body == b"event 0\nevent 1\ndone\n"


def test_a_flood_of_pipelined_bytes_is_cut(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.request("GET /wait")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(200):
                raw.send(b"x" * 16_384)
                time.sleep(0.01)


def test_connections_beyond_the_limit_are_refused_and_the_rest_served(serve: Callable[..., Served]) -> None:
    server = serve(limits={"connections": 40, "connections_unmetered": 10, "connections_per_ip": 30, "linger_s": 0.5})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Raw(server.port)) for _ in range(30)]
        for raw in held:
            raw.request("GET /echo")
            raw.until(b"\r\n0\r\n\r\n")
        for _ in range(5):
            extra = stack.enter_context(Raw(server.port))
            answer = parse(extra.until_end())
            assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
            assert answer.fields["retry-after"] == "1"
        held[0].request("GET /echo")
        held[0].until(b"\r\n0\r\n\r\n")
    eventually(lambda: can_connect(server))
    assert server.state()["refusals"]["too_many_connections"] >= 5


def can_connect(server: Served) -> bool:
    return httpx.get(f"{server.url}/echo", timeout=60).status_code == 200


def test_a_thousand_connections_do_not_stop_the_others(serve: Callable[..., Served]) -> None:
    server = serve(limits={"linger_s": 0.3})
    with contextlib.ExitStack() as stack, httpx.Client(base_url=server.url, timeout=60) as regular:
        regular.get("/echo")
        for _ in range(400):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # one too many, and told so at once
                stack.enter_context(Raw(server.port)).send("GET /")
        assert regular.get("/echo").status_code == 200
        assert regular.get("/state").json()["connections"] <= 128 + 64


# ── Disconnects ──────────────────────────────────────────────────────────────────────────────────────────────────

LEAVE: dict[str, Callable[[Raw], None]] = {
    "close": lambda raw: raw.sock.close(),
    "reset": lambda raw: raw.reset(),
    "half-close": lambda raw: raw.sock.shutdown(socket.SHUT_WR),
}


def test_a_task_group_that_meets_a_disconnect_is_no_failure(serve: Callable[..., Served]) -> None:
    server = serve(limits=SHORT)
    with Raw(server.port) as raw:
        raw.request("GET /grouped")
        raw.until(b"tick")
    eventually(lambda: server.state()["tasks"] == 1)
    server.stop()
    assert "application failed" not in server.log


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize(
    ("path", "event"), [("/stream-until-gone", "stream-gone"), ("/wait", "wait-ended"), ("/deaf", "deaf-ended")]
)
def test_the_application_learns_of_a_disconnect(
    serve: Callable[..., Served], leave: str, path: str, event: str
) -> None:
    server = serve(limits=SHORT)
    with Raw(server.port) as raw:
        raw.request(f"GET {path}")
        eventually(lambda: server.state()["in_flight"] == 2)
        time.sleep(0.1)
        LEAVE[leave](raw)
        eventually(lambda: event in server.events())
    eventually(lambda: server.state()["tasks"] == 1)
    assert server.stop() == 0
    assert "too long to shut down" not in server.log
    assert server.log.count("application failed") == 0

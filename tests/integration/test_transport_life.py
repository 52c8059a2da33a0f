"""From binding the port to the end of the drain, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.integration.transport_client import Raw, Served, eventually, socket_to


def test_both_loopbacks_are_bound(served: Served) -> None:
    bound = set(served.ready["addresses"]) | {address for address, _ in served.ready["missing"]}
    assert bound == {"127.0.0.1", "::1"}
    for address in served.ready["addresses"]:
        with socket.create_connection((address, served.port), timeout=60):
            pass


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_a_taken_port_is_said_at_once(serve: Callable[..., Served], served: Served, address: str) -> None:
    if address not in [*served.ready["addresses"], "0.0.0.0"]:
        pytest.skip("this machine has no IPv6 loopback")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as squatter:
        squatter.bind((address, 0))
        squatter.listen()
        second = serve(port=squatter.getsockname()[1])
    assert second.ready["error"] == "PortInUse"
    assert second.ready["code"] == "port_in_use"
    assert second.process.wait(timeout=60) == 4


def test_drain_closes_the_port_and_finishes_the_stream(serve: Callable[..., Served], tmp_path: Path) -> None:
    server, end = serve(), tmp_path / "end"
    with Raw(server.port) as streaming, Raw(server.port) as idle:
        idle.request("GET /echo")
        idle.until(b"\r\n0\r\n\r\n")
        streaming.request(f"GET /stream?n=10&until={end}")
        received = streaming.until(b"event 0")
        server.drain()
        eventually(lambda: refuses_connections(server.port))
        idle.until_end()
        assert idle.ended == "eof"
        end.touch()
        received += streaming.until_end()
        assert streaming.ended == "eof"
    assert received.count(b"event ") == 10
    assert received.endswith(b"0\r\n\r\n")
    assert server.stop() == 0


def test_a_drained_connection_is_not_kept(serve: Callable[..., Served], tmp_path: Path) -> None:
    server, end, last = serve(), tmp_path / "end", tmp_path / "last"
    with Raw(server.port) as short, Raw(server.port) as long:
        long.request(f"GET /stream?n=1&until={last}")
        long.until(b"event 0")
        short.request(f"GET /stream?n=1&until={end}")
        short.until(b"event 0")
        server.drain()
        eventually(lambda: refuses_connections(server.port))
        end.touch()
        assert short.until_end().endswith(b"0\r\n\r\n")  # and it was not the end of the server that ended it
        assert short.ended == "eof"
        last.touch()
        long.until(b"done")


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_large_answer_survives_the_end_of_the_drain(serve: Callable[..., Served]) -> None:
    """The application is done, its last bytes are still in our buffer when `stop` is called."""
    server = serve(limits={"write_high_water_bytes": 8_000_000, "shutdown_grace_s": 10})
    with Raw(server.port, receive_buffer_bytes=65536) as raw:
        raw.request("GET /big?bytes=6000000")
        received = len(raw.until(b"yyyy"))
        server.drain()
        time.sleep(0.3)
        received += len(raw.until_end())
        assert raw.ended == "eof"
    assert received > 6_000_000
    assert server.stop() == 0


def test_stopping_without_drain_resets_what_runs(serve: Callable[..., Served]) -> None:
    server = serve(impatient=True)
    with Raw(server.port) as streaming, Raw(server.port) as waiting:
        streaming.request("GET /stream?n=1000")
        streaming.until(b"event 0")
        waiting.request("GET /deaf")
        eventually(lambda: server.state()["in_flight"] == 3)
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 60
        for raw in (streaming, waiting):
            raw.until_end()
            assert raw.ended == "reset"


def test_a_stepped_clock_cuts_nothing(serve: Callable[..., Served]) -> None:
    server = serve()
    with Raw(server.port) as idle, Raw(server.port) as streaming, socket_to(server) as ws:
        idle.request("GET /echo")
        idle.until(b"\r\n0\r\n\r\n")
        streaming.request("GET /stream?n=50&gap_s=0.05", "Connection: close")
        for step_s in (315_000_000, -315_000_000):
            assert httpx.get(f"{server.url}/jump?s={step_s}", timeout=60).status_code == 200
            time.sleep(0.8)
            ws.send("still here")
            assert ws.recv(timeout=60) == "still here"
        assert streaming.until_end().count(b"event ") == 50
        idle.request("GET /echo")
        idle.until(b"\r\n0\r\n\r\n")

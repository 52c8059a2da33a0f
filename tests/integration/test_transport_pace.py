"""Slow senders and slow readers over real sockets.

Times: the event is asserted, with about ten times the slack that was measured.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.integration.transport_client import SHORT, Raw, Served, eventually, exchange, head, parse

# ── Slow senders ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_half_a_head_times_out(hasty: Served) -> None:
    answer = exchange(hasty.port, "GET /v1/models HTTP/1.1\r\nHost: x\r\n")
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


def test_a_dripping_head_times_out(hasty: Served) -> None:
    with Raw(hasty.port) as raw:
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    raw.send("x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        received = raw.until_end()
        stop.set()
        dripping.join()
    assert parse(received).status == 408


def test_a_silent_connection_is_closed(hasty: Served) -> None:
    with Raw(hasty.port) as raw:
        assert raw.until_end() == b""
        assert raw.ended == "eof"


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_half_a_body_times_out(hasty: Served, framing: str) -> None:
    answer = exchange(hasty.port, head(hasty.port, "POST /v1/messages", framing) + "1\r\n")
    assert answer.status == 408
    assert answer.error["type"] == "invalid_request_error"


def test_a_dripping_body_times_out(hasty: Served) -> None:
    """Ten bytes per tenth of a second are never idle, and never fast enough."""
    with Raw(hasty.port) as raw:
        raw.send(head(hasty.port, "POST /v1/x", "Content-Length: 100000"))
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 60:
                raw.send("x" * 10)
                raw.sock.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    received = raw.sock.recv(65536)
                    break
        assert parse(received).status == 408
        assert time.monotonic() - began_s < 60


def test_a_slow_but_honest_body_passes(serve: Callable[..., Served]) -> None:
    """Twenty times as fast as it has to be, on a quiet machine, and as old as twice the grace."""
    server = serve(limits={**SHORT, "body_idle_s": 10.0, "body_rate_grace_s": 0.5})
    with Raw(server.port) as raw:
        raw.send(head(server.port, "POST /v1/x", "Content-Length: 20000", "Connection: close"))
        for _ in range(10):
            raw.send("x" * 2000)
            time.sleep(0.1)
        assert parse(raw.until_end()).status == 200


# ── Slow readers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_that_stops_is_aborted_and_costs_little(serve: Callable[..., Served]) -> None:
    server = serve(limits=SHORT)
    before_bytes = server.state()["rss_bytes"]
    with Raw(server.port, receive_buffer_bytes=4096) as raw:
        raw.request("GET /flood?bytes=300000000")
        time.sleep(0.5)
        assert server.state()["rss_bytes"] - before_bytes < 20_000_000
        took_s = eventually(lambda: "flood-disconnected" in server.events())
    assert took_s < 60
    state = server.state()
    [sent_bytes] = [detail for name, detail in state["events"] if name == "flood-disconnected"]
    assert sent_bytes < 2_000_000
    assert state["rss_bytes"] - before_bytes < 20_000_000
    assert state["in_flight"] == 1  # this very request


def test_a_reader_slow_but_alive_gets_everything(served: Served) -> None:
    """64 KB every 50 ms for 4 MB: slower than the application, faster than the stall limit."""
    received = 0
    with Raw(served.port, receive_buffer_bytes=65536) as raw:
        raw.request("GET /flood?bytes=4194304", "Connection: close")
        while piece := raw.sock.recv(65536):
            received += len(piece)
            time.sleep(0.02)
    assert received > 4_194_304


def test_a_large_unary_answer_is_not_lost(served: Served) -> None:
    answer = httpx.get(f"{served.url}/big?bytes=20000000", timeout=60)
    assert len(answer.content) == 20_000_000


def test_a_stalled_keep_alive_reader_is_let_go_after_its_answer(serve: Callable[..., Served]) -> None:
    server = serve(limits={**SHORT, "write_high_water_bytes": 4_000_000})
    with Raw(server.port, receive_buffer_bytes=4096) as raw:
        raw.request("GET /big?bytes=3000000")  # fits into the buffer: the application is done long before the reader
        eventually(lambda: server.state()["connections"] >= 2)
        eventually(lambda: server.state()["connections"] == 1)

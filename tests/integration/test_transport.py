"""The transport over real sockets: a server process with a tiny application, and clients that misbehave.

Times: the event is asserted, with about ten times the slack that was measured.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("transport_app.py")
SHORT: dict[str, Any] = {
    "header_timeout_s": 0.5, "body_idle_s": 0.5, "body_total_s": 20.0, "body_rate_grace_s": 0.8,
    "body_min_bytes_per_s": 1000, "body_bytes": 1_000_000, "write_stall_s": 1.0, "linger_s": 0.5,
    "disconnect_grace_s": 0.3, "body_memory_bytes": 100_000,
}  # fmt: skip


# ── A server process and a raw client ────────────────────────────────────────────────────────────────────────────


@dataclass
class Served:
    process: subprocess.Popen[str]
    ready: dict[str, Any]
    stderr_path: Path
    log: str = ""
    told: bool = False

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def state(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/state", timeout=10).json())

    def events(self) -> list[str]:
        return [name for name, _ in self.state()["events"]]

    def drain(self) -> None:
        self.told = True
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        if not self.told:
            self.drain()
        try:
            code = self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.log = self.stderr_path.read_text()
        return code


def start(tmp_path: Path, **options: Any) -> Served:
    stderr_path = tmp_path / f"stderr-{time.monotonic_ns()}"
    with stderr_path.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    assert line, stderr_path.read_text()
    return Served(process, json.loads(line), stderr_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server with short limits for all tests that leave it as they found it."""
    server = start(tmp_path_factory.mktemp("served"), limits=SHORT)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log
    assert "secret" not in server.log
    assert "unhandled" not in server.log
    assert "too long to shut down" not in server.log


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers of one test's own."""
    servers: list[Served] = []

    def begin(**options: Any) -> Served:
        servers.append(start(tmp_path, **options))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()
        assert "unhandled" not in server.log
        assert "Traceback" not in server.log


@dataclass
class Raw:
    """A socket with the few verbs that tests need."""

    port: int
    receive_buffer_bytes: int | None = None
    sock: socket.socket = field(init=False)
    ended: str = field(init=False, default="")

    def __enter__(self) -> Raw:
        self.sock = socket.socket()
        if self.receive_buffer_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        self.sock.settimeout(15)
        self.sock.connect(("127.0.0.1", self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def request(self, line: str, *headers: str, body: bytes = b"") -> None:
        self.send("\r\n".join([f"{line} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", ""]).encode() + body)

    def until_end(self) -> bytes:
        """Everything that arrives; `ended` then says how: eof, reset or timeout."""
        received = b""
        try:
            while piece := self.sock.recv(65536):
                received += piece
            self.ended = "eof"
        except ConnectionResetError:
            self.ended = "reset"
        except TimeoutError:
            self.ended = "timeout"
        return received

    def until(self, mark: bytes) -> bytes:
        received = b""
        while mark not in received:
            piece = self.sock.recv(65536)
            assert piece, received
            received += piece
        return received

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@dataclass(frozen=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, after checks that hold for every refusal: JSON, an id, and the end of the connection announced."""
        assert self.fields["content-type"] == "application/json"
        assert re.fullmatch(r"req_[0-9a-f]{32}", self.fields["x-request-id"])
        assert self.fields["request-id"] == self.fields["x-request-id"]
        assert "server" not in self.fields
        assert not any(name.startswith("access-control") for name in self.fields)
        return dict(json.loads(self.body)["error"])


def parse(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split(" ")[1]), fields, body)


def exchange(port: int, data: bytes | str, *, limit_s: float = 15) -> Answer:
    """Send raw bytes, read to the end, insist on a clean end within the limit."""
    began_s = time.monotonic()
    with Raw(port) as raw:
        raw.send(data)
        received = raw.until_end()
        assert raw.ended == "eof", (raw.ended, received)
    assert time.monotonic() - began_s < limit_s
    return parse(received)


def head(port: int, line: str = "POST /v1/chat/completions", *headers: str) -> str:
    fields = [f"Host: 127.0.0.1:{port}", "Content-Type: application/json", *headers]
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""])


def eventually(condition: Callable[[], bool], within_s: float = 10) -> float:
    """Wait for `condition`; how long it took, in seconds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, "did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began_s


# ── Sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", ["10000000000", "1000001", "9" * 30, "9" * 5000])
def test_a_body_too_long_is_refused_before_it_is_read(served: Served, length: str) -> None:
    answer = exchange(
        served.port, head(served.port, "POST /v1/messages", f"Content-Length: {length}"), limit_s=0.5 + 0.5
    )
    assert answer.status == 413
    assert answer.error["type"] == "request_too_large"
    assert answer.fields["x-should-retry"] == "false"


def test_refusal_comes_before_the_continue(served: Served) -> None:
    began_s = time.monotonic()
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Content-Length: 10000000000", "Expect: 100-continue"))
        received = raw.until(b"}}")
    assert received.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - began_s < 0.5


def test_a_client_that_sends_on_still_reads_the_answer(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Content-Length: 8000000"))
        raw.send(b"x" * 8_000_000)
        assert parse(raw.until_end()).status == 413
        assert raw.ended == "eof"


def test_a_chunked_body_is_cut_at_the_limit(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Transfer-Encoding: chunked"))
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(40):
            raw.send(piece)
        answer = parse(raw.until_end())
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_chunks_of_one_byte_cannot_stretch_the_limit(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Transfer-Encoding: chunked"))
        raw.send(b"1\r\nx\r\n" * 100_000)
        answer = parse(raw.until_end())
    assert (answer.status, answer.error["code"]) == (400, "wasteful_chunks")


@pytest.mark.parametrize("size", [0, 1, 99_999, 262_144, 524_288, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_within_the_limit_arrive_whole(served: Served, size: int, chunked: bool) -> None:
    content: Any = (b"x" * min(70_000, size - i) for i in range(0, size, 70_000)) if chunked else b"x" * size
    answer = httpx.post(f"{served.url}/v1/x", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert answer.json()["body_bytes"] == size


def test_small_chunks_are_no_crime(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Transfer-Encoding: chunked", "Connection: close"))
        raw.send(
            b"10\r\n" + b"x" * 16 + b"\r\n",
        )
        raw.send((b"8\r\n" + b"x" * 8 + b"\r\n") * 60_000 + b"0\r\n\r\n")
        answer = parse(raw.until_end())
    assert answer.status == 200
    assert b'"body_bytes": 480016' in answer.body


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([f"X-{i}: 1" for i in range(600)], 431, "headers_too_large"),
        (["X: " + "y" * 20_000], 431, "headers_too_large"),
        (["X: " + "y" * 2_000_000], 431, "headers_too_large"),
        ([f"X-{i}: " + "y" * 3000 for i in range(7)], 431, "headers_too_large"),
    ],
    ids=["600 headers", "20 KB", "2 MB", "7 x 3 KB"],
)
def test_large_heads_are_answered(served: Served, lines: list[str], status: int, code: str) -> None:
    answer = exchange(served.port, head(served.port, "GET /v1/models", *lines))
    assert (answer.status, answer.error["code"]) == (status, code)


def test_a_long_target_is_answered(served: Served) -> None:
    answer = exchange(served.port, head(served.port, "GET /" + "x" * 20_000))
    assert (answer.status, answer.error["code"]) == (414, "uri_too_long")


# ── Framing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Content-Length: 0x5"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["X: a", " folded"],
        ["X : a"],
        ["no colon"],
        ["X: a\x00b"],
        ["X: a\nY: b"],
        ["X: a\rY: b"],
    ],
)
def test_ambiguous_framing_is_refused(served: Served, lines: list[str]) -> None:
    answer = exchange(served.port, head(served.port, "POST /v1/messages", *lines) + "0\r\n\r\n")
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "garbage", ["\x16\x03\x01\x02\x00\x01\r\n", "GET /\r\n", "GET / HTTP/2.0\r\n\r\n", "x\r\n\r\n"]
)
def test_garbage_is_answered(served: Served, garbage: str) -> None:
    answer = exchange(served.port, garbage + "\r\n")
    assert (answer.status, answer.error["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("chunk", ["zz\r\n", "5\r\nabcdefgh\r\n", "-1\r\n", "5;" + "x" * 5000 + "\r\n"])
def test_malformed_chunks_are_refused(served: Served, chunk: str) -> None:
    answer = exchange(served.port, head(served.port, "POST /v1/x", "Transfer-Encoding: chunked") + chunk)
    assert (answer.status, answer.error["code"]) == (400, "malformed_request")


# ── Slow senders ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_half_a_head_times_out(served: Served) -> None:
    answer = exchange(served.port, "GET /v1/models HTTP/1.1\r\nHost: x\r\n", limit_s=5)
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


def test_a_dripping_head_times_out(served: Served) -> None:
    with Raw(served.port) as raw:
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


def test_a_silent_connection_is_closed(served: Served) -> None:
    with Raw(served.port) as raw:
        assert raw.until_end() == b""
        assert raw.ended == "eof"


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_half_a_body_times_out(served: Served, framing: str) -> None:
    answer = exchange(served.port, head(served.port, "POST /v1/messages", framing) + "1\r\n", limit_s=5)
    assert answer.status == 408
    assert answer.error["type"] == "invalid_request_error"


def test_a_dripping_body_times_out(served: Served) -> None:
    """Ten bytes per tenth of a second are never idle, and never fast enough."""
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Content-Length: 100000"))
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 8:
                raw.send("x" * 10)
                raw.sock.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    received = raw.sock.recv(65536)
                    break
        assert parse(received).status == 408
        assert time.monotonic() - began_s < 8


def test_a_slow_but_honest_body_passes(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Content-Length: 10000", "Connection: close"))
        for _ in range(10):
            raw.send("x" * 1000)
            time.sleep(0.12)
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
    assert took_s < 10
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
    answer = httpx.get(f"{served.url}/big?bytes=20000000", timeout=30)
    assert len(answer.content) == 20_000_000


def test_a_stalled_keep_alive_reader_is_let_go_after_its_answer(serve: Callable[..., Served]) -> None:
    server = serve(limits={**SHORT, "write_high_water_bytes": 4_000_000})
    with Raw(server.port, receive_buffer_bytes=4096) as raw:
        raw.request("GET /big?bytes=3000000")  # fits into the buffer: the application is done long before the reader
        eventually(lambda: server.state()["connections"] >= 2)
        eventually(lambda: server.state()["connections"] == 1)


# ── Failing applications ─────────────────────────────────────────────────────────────────────────────────────────


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
    assert httpx.post(f"{server.url}/eager", content=b"x" * 500_000).json() == {"early": True}
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
    request_id = httpx.get(f"{server.url}/fail-early").headers["x-request-id"]
    server.stop()
    [line] = [line for line in server.log.splitlines() if request_id in line]
    assert "RuntimeError" in line
    assert "secret" not in server.log


# ── The gate, on the wire ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ("GET /v1/models HTTP/1.1\r\n\r\n", 400, "missing_host"),
        ("GET /health/live HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421, "invalid_host"),
        ("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}\r\n\r\n", 421, "invalid_host"),
        ("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: null\r\n\r\n", 403, "origin_not_allowed"),
        ("OPTIONS /v1/x HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://a.b\r\n\r\n", 403, "origin_not_allowed"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nSec-Fetch-Site: same-site\r\n\r\n", 403, "cross_site_request"),
        ("POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 9\r\n\r\n", 415, "unsupported_media_type"),
        ("TRACE / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n", 405, "method_not_allowed"),
        ("GET /v1/../x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n", 404, "not_found"),
        ("GET /a%00 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n", 400, "invalid_path"),
    ],
)
def test_refusals_on_the_wire(served: Served, data: str, status: int, code: str) -> None:
    answer = exchange(served.port, data.format(port=served.port), limit_s=2)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.fields["connection"] == "close"
    assert ("allow" in answer.fields) == (status == 405)


def test_a_refused_head_request_has_no_body(served: Served) -> None:
    answer = exchange(served.port, f"HEAD //x HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n")
    assert (answer.status, answer.body) == (404, b"")


def test_refusals_on_anthropic_routes_have_their_shape(served: Served) -> None:
    answer = exchange(served.port, "GET /v1/messages HTTP/1.1\r\nHost: evil.com\r\n\r\n")
    assert json.loads(answer.body) == {
        "type": "error", "request_id": answer.fields["request-id"],
        "error": {"type": "invalid_request_error", "message": answer.error["message"]},
    }  # fmt: skip


def test_the_root_path_header_has_no_effect(served: Served) -> None:
    for path in ("/zz/admin/x", "/admin/x"):
        answer = httpx.get(f"{served.url}{path}", headers={"Daphne-Root-Path": "/zz", "X-Under_Score": "1"}).json()
        assert answer["path"] == path
        assert answer["root_path"] == ""
        assert "daphne-root-path" not in answer["header_names"]
        assert "x-under_score" not in answer["header_names"]


def test_request_ids_are_fresh_and_ours(served: Served) -> None:
    seen = set()
    for _ in range(3):
        answer = httpx.get(f"{served.url}/echo", headers={"x-request-id": "req_mine", "request-id": "req_mine"})
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == answer.json()["mlxd.request_id"]
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 3
    assert "req_mine" not in seen


# ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_hundred_requests_on_one_connection(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
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
    return httpx.get(f"{server.url}/echo").status_code == 200


def test_a_thousand_connections_do_not_stop_the_others(serve: Callable[..., Served]) -> None:
    server = serve(limits={"linger_s": 0.3})
    with contextlib.ExitStack() as stack, httpx.Client(base_url=server.url) as regular:
        regular.get("/echo")
        for _ in range(400):
            stack.enter_context(Raw(server.port)).send("GET /")
        began_s = time.monotonic()
        assert regular.get("/echo").status_code == 200
        assert time.monotonic() - began_s < 1
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
        took_s = eventually(lambda: event in server.events())
        assert took_s < 1
    eventually(lambda: server.state()["tasks"] == 1)
    assert server.stop() == 0
    assert "too long to shut down" not in server.log
    assert server.log.count("application failed") == 0


# ── Life ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_loopbacks_are_bound(served: Served) -> None:
    bound = set(served.ready["addresses"]) | {address for address, _ in served.ready["missing"]}
    assert bound == {"127.0.0.1", "::1"}
    for address in served.ready["addresses"]:
        with socket.create_connection((address, served.port), timeout=5):
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
    assert second.process.wait(timeout=10) == 4


def test_drain_closes_the_port_and_finishes_the_stream(serve: Callable[..., Served]) -> None:
    server = serve()
    with Raw(server.port) as streaming, Raw(server.port) as idle:
        idle.request("GET /echo")
        idle.until(b"\r\n0\r\n\r\n")
        streaming.request("GET /stream?n=30&gap_s=0.05")
        received = streaming.until(b"event 0")
        server.drain()
        eventually(lambda: refuses_connections(server.port), within_s=1)
        idle.until_end()
        assert idle.ended == "eof"
        received += streaming.until_end()
        assert streaming.ended == "eof"
    assert received.count(b"event ") == 30
    assert received.endswith(b"0\r\n\r\n")
    assert server.stop() == 0


def test_a_drained_connection_is_not_kept(serve: Callable[..., Served]) -> None:
    server = serve()
    with Raw(server.port) as short, Raw(server.port) as long:
        long.request("GET /stream?n=100&gap_s=0.05")
        long.until(b"event 0")
        short.request("GET /stream?n=8&gap_s=0.05")
        short.until(b"event 0")
        server.drain()
        assert short.until_end().endswith(b"0\r\n\r\n")
        assert short.ended == "eof"
        long.sock.setblocking(False)
        seen = long.sock.recv(65536)
        assert b"event 99" not in seen  # so it was not the end of the server that ended the short one
        long.sock.settimeout(15)
        long.until(b"event 99")


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
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
        assert time.monotonic() - began_s < 5
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
            assert httpx.get(f"{server.url}/jump?s={step_s}").status_code == 200
            time.sleep(0.8)
            ws.send("still here")
            assert ws.recv(timeout=5) == "still here"
        assert streaming.until_end().count(b"event ") == 50
        idle.request("GET /echo")
        idle.until(b"\r\n0\r\n\r\n")


# ── WebSockets ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def socket_to(server: Served, path: str = "/ws/live", origin: str | None = "") -> Iterator[ClientConnection]:
    """A WebSocket from one of our own pages, its greeting read."""
    own = f"http://127.0.0.1:{server.port}" if origin == "" else origin
    with connect(f"ws://127.0.0.1:{server.port}{path}", origin=own, compression=None) as ws:  # type: ignore[arg-type]
        greeting = json.loads(ws.recv(timeout=5))
        assert ws.response is not None
        assert greeting["mlxd.request_id"] == ws.response.headers["x-request-id"]
        assert greeting["path"] == path
        assert "server" not in ws.response.headers
        yield ws


def test_sockets_talk_and_end(served: Served) -> None:
    with socket_to(served) as ws:
        ws.send("hello")
        assert ws.recv(timeout=5) == "hello"
        assert served.state()["in_flight"] == 1
    eventually(lambda: "ws-ended" in served.events())


def test_the_root_path_header_has_no_effect_on_sockets(served: Served) -> None:
    own = f"http://127.0.0.1:{served.port}"
    extra = {"Daphne-Root-Path": "/ws"}
    with connect(f"ws://127.0.0.1:{served.port}/ws/live", origin=own, additional_headers=extra) as ws:  # type: ignore[arg-type]
        greeting = json.loads(ws.recv(timeout=5))
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
            ws.recv(timeout=5)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1011


def test_a_message_too_long_ends_the_socket(served: Served) -> None:
    with socket_to(served) as ws, pytest.raises(ConnectionClosed) as raised:
        ws.send("x" * 1_100_000)
        ws.recv(timeout=5)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1009


def test_a_dead_socket_is_noticed(serve: Callable[..., Served]) -> None:
    server = serve(limits={"websocket_ping_s": 0.3, "websocket_silence_s": 1.0})
    with Raw(server.port) as raw:
        lines = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        raw.request("GET /ws/live", *lines, key, f"Origin: http://127.0.0.1:{server.port}")
        raw.until_end()  # reads pings and answers none
        assert raw.ended == "reset"
    with socket_to(server) as ws:  # this client answers
        time.sleep(2)
        ws.send("alive")
        assert ws.recv(timeout=5) == "alive"


def test_sockets_do_not_hold_up_a_drain(serve: Callable[..., Served]) -> None:
    server = serve()
    with socket_to(server) as ws:
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 5
        with pytest.raises(ConnectionClosed) as raised:
            ws.recv(timeout=5)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1001

"""A server process with a tiny application on the real transport, and clients that may misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("transport_app.py")
PATIENT: dict[str, Any] = {"body_bytes": 1_000_000, "body_memory_bytes": 100_000, "linger_s": 20.0}
"""Little may be sent. It may take the time that a client needs on a machine that does ten other things."""
SHORT: dict[str, Any] = {
    **PATIENT, "header_timeout_s": 0.5, "body_idle_s": 0.5, "body_total_s": 20.0, "body_rate_grace_s": 0.8,
    "body_min_bytes_per_s": 1000, "write_stall_s": 1.0, "disconnect_grace_s": 0.3,
}  # fmt: skip


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
        return dict(httpx.get(f"{self.url}/state", timeout=60).json())

    def events(self) -> list[str]:
        return [name for name, _ in self.state()["events"]]

    def drain(self) -> None:
        self.told = True
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        if not self.told:
            self.drain()
        try:
            code = self.process.wait(timeout=60)
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
        self.sock.settimeout(60)
        try:
            self.sock.connect(("127.0.0.1", self.port))
        except OSError:
            self.sock.close()
            raise
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


def exchange(port: int, data: bytes | str, *, limit_s: float = 60) -> Answer:
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


def eventually(condition: Callable[[], bool], within_s: float = 60) -> float:
    """Wait for `condition`; how long it took, in seconds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, "did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began_s


@contextlib.contextmanager
def socket_to(server: Served, path: str = "/ws/live", origin: str | None = "") -> Iterator[ClientConnection]:
    """A WebSocket from one of our own pages, its greeting read."""
    own = f"http://127.0.0.1:{server.port}" if origin == "" else origin
    with connect(f"ws://127.0.0.1:{server.port}{path}", origin=own, compression=None) as ws:  # type: ignore[arg-type]
        greeting = json.loads(ws.recv(timeout=60))
        assert ws.response is not None
        assert greeting["mlxd.request_id"] == ws.response.headers["x-request-id"]
        assert greeting["path"] == path
        assert "server" not in ws.response.headers
        yield ws

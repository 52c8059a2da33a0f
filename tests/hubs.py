"""A model hub on loopback that can be told to misbehave, and that keeps what it was asked."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Reply:
    """What is sent for one request. `declared` is the Content-Length where it is not the body's own; `cut` ends the
    connection after so many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    cut: int | None = None


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    path: str
    headers: dict[str, str]


class Hub:
    """Holds one repository, `o/tiny`. `twist` may change any reply; every request is in `asked`."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.entries = [entry(name, body) for name, body in self.files.items()]
        self.twist: Callable[[str, Reply], Reply] = lambda _path, reply: reply
        self.asked: list[Asked] = []
        hub = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                hub.asked.append(Asked(self.path, headers))
                reply = hub.twist(self.path, hub.reply(self.path, headers))
                self.send_response(reply.status)
                length = len(reply.body) if reply.declared is None else reply.declared
                for name, value in {"Content-Length": str(length), **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                with suppress(ConnectionError):  # who has seen enough goes
                    self.wfile.write(reply.body[: reply.cut])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True
        self.url = f"http://localhost:{self.server.server_port}"  # told apart from the daemon's own
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def reply(self, path: str, headers: dict[str, str]) -> Reply:
        path = path.partition("?")[0]
        if re.fullmatch(r"/api/models/o/tiny/revision/\w+", path):
            return Reply(json.dumps({"id": "o/tiny", "sha": REVISION}).encode())
        if path == f"/api/models/o/tiny/tree/{REVISION}":
            return Reply(json.dumps(self.entries).encode())
        name = path.removeprefix(f"/o/tiny/resolve/{REVISION}/")
        if name != path and name in self.files:
            return part_of(self.files[name], headers.get("range"))
        return Reply(status=404, headers={"X-Error-Code": "RepoNotFound"})

    def fetched(self) -> list[str]:
        """Names of the files asked for, in order."""
        return [one.path.rpartition("/")[2] for one in self.asked if "/resolve/" in one.path]


def entry(name: str, body: bytes) -> dict[str, Any]:
    """A file as the hub lists it: what is large, or weights, by its SHA-256."""
    listed: dict[str, Any] = {"type": "file", "path": name, "size": len(body), "oid": git_digest(body)}
    if name.endswith(".safetensors"):
        listed["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return listed


def git_digest(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def part_of(body: bytes, asked: str | None) -> Reply:
    if asked is None:
        return Reply(body)
    begin = int(asked.removeprefix("bytes=").removesuffix("-"))
    return Reply(body[begin:], 206, {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"})


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()

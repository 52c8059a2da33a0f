"""`mlxd serve --model OWNER/NAME` fetches a model once, from the place the settings name, and serves it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.e2e.daemon import ServedDaemon

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A model hub on loopback that holds one repository, `o/tiny`, and counts what is asked of it."""

    def __init__(self, model: Path) -> None:
        self.files = {file.name: file.read_bytes() for file in model.iterdir()}
        self.files["modeling_evil.py"] = b"raise SystemExit('code of a repository must not come along')"
        self.asked: list[str] = []
        hub = self

        class Answers(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                if re.fullmatch(r"/api/models/o/tiny(/revision/\w+)?", path):
                    self.answer(json.dumps(hub.about()).encode())
                elif path.startswith("/api/models/o/tiny/tree/"):
                    self.answer(json.dumps(hub.tree()).encode())
                elif path.startswith("/o/tiny/resolve/") and path.rpartition("/")[2] in hub.files:
                    self.answer(hub.files[path.rpartition("/")[2]])
                else:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RepoNotFound")
                    self.end_headers()

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", REVISION)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://localhost:{self.server.server_port}"  # told apart from the daemon's own
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def about(self) -> dict[str, object]:
        return {"id": "o/tiny", "sha": REVISION, "siblings": [{"rfilename": name} for name in self.files]}

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in self.files.items()
        ]


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    hub = Hub(tiny_model)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_repository_is_fetched_once_and_served(hub: Hub, tmp_path: Path) -> None:
    arguments = ["--model", "o/tiny", "--hf-endpoint", hub.url]
    elsewhere = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}  # not consulted
    with ServedDaemon(tmp_path / "state", arguments, environment=elsewhere) as daemon:
        listed = httpx.get(f"{daemon.url}/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["o/tiny"]
        assert f"Downloading o/tiny from {hub.url}" in daemon.log.read_text()
    assert any("model.safetensors" in path for path in hub.asked)
    assert not list((tmp_path / "hf").rglob("*.py"))
    hub.asked.clear()
    with ServedDaemon(tmp_path / "state", arguments, environment=elsewhere) as daemon:
        assert "Downloading" not in daemon.log.read_text()
        assert not httpx.get(f"{daemon.url}/v1/models/o/tiny").is_error
    assert hub.asked == []


def test_a_repository_that_is_not_there_is_explained(hub: Hub, tmp_path: Path) -> None:
    arguments = ["--model", "o/absent", "--hf-endpoint", hub.url]
    daemon = ServedDaemon(tmp_path / "state", arguments, environment={"HF_HOME": str(tmp_path / "hf")})
    assert daemon.process.wait(60) == 2
    said = daemon.log.read_text()
    assert "o/absent" in said and "Traceback" not in said
    daemon.kill()

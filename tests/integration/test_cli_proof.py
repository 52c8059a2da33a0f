"""No credential is sent to a stranger who listens where the daemon of this state directory is looked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from mlxd.cli import cli
from mlxd.cli.admin_api import ask
from mlxd.cli.open import is_watched
from mlxd.instance import claim, proof, publish
from mlxd.paths import StateDir, admin_token, open_state_dir, secret_key
from mlxd.start_errors import StartError

KEY = "k-123"


class Listener:
    """Answers every challenge with the proof of `secret`, and keeps what it was sent."""

    def __init__(self, secret: str | None) -> None:
        self.heard: list[str] = []
        listener = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.heard.append(f"{self.path} {self.headers}")
                challenge = parse_qs(urlsplit(self.path).query).get("challenge", [""])[0]
                told = {} if secret is None else {"proof": proof(secret.encode(), challenge)}
                body = json.dumps({**told, "data": [], "keys": []}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


type Listen = Callable[[str | None], Listener]


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = open_state_dir(tmp_path / "state")
    (tmp_path / "key").write_text(KEY)
    admin_token(made)
    secret_key(made)
    return made


@pytest.fixture
def listen(state: StateDir) -> Iterator[Listen]:
    """Begins to listen where the state directory says that its daemon does."""
    listeners: list[Listener] = []

    def start(secret: str | None) -> Listener:
        listeners.append(Listener(secret))
        publish(state, f"http://127.0.0.1:{listeners[-1].server.server_port}")
        return listeners[-1]

    with claim(state):
        yield start
    for listener in listeners:
        listener.close()


def chat(state: StateDir, *more: str) -> Result:
    words = ["chat", "--state-dir", str(state.root), "--api-key-file", str(state.root.parent / "key"), "-p", "Hi"]
    return CliRunner().invoke(cli, [*words, *more])


@pytest.mark.parametrize("secret", [None, "", "0" * 64])
@pytest.mark.parametrize("kept", [True, False])
def test_a_stranger_is_sent_nothing(secret: str | None, kept: bool, state: StateDir, listen: Listen) -> None:
    """Also where the secret is gone: what anybody can prove is no proof."""
    if not kept:
        state.secret_key.unlink()
    stranger = listen(secret)
    with pytest.raises(StartError, match="sent no token"):
        ask(state, "GET", "/api/keys")
    asked = chat(state)
    assert isinstance(asked.exception, StartError) and "sent no token" in asked.exception.message
    assert len(stranger.heard) == 2 and all("/health/identity" in heard for heard in stranger.heard)
    assert "authorization" not in str(stranger.heard).lower() and KEY not in str(stranger.heard)


def test_who_reads_the_same_directory_is_sent_it(state: StateDir, listen: Listen) -> None:
    ours = listen(secret_key(state))
    assert ask(state, "GET", "/api/keys") is not None
    chat(state)
    assert [("Bearer" in heard) for heard in ours.heard[:4]] == [False, True, False, True]
    assert KEY in ours.heard[3]


def test_whom_a_person_names_is_sent_what_the_person_gives(state: StateDir, listen: Listen) -> None:
    named = listen(None)
    chat(state, "--base-url", f"http://127.0.0.1:{named.server.server_port}/v1")
    assert KEY in named.heard[0]


@pytest.mark.parametrize(
    ("platform", "people", "watched"), [("linux", 1, False), ("linux", 2, True), ("darwin", 2, False)]
)
def test_a_code_is_no_argument_where_others_could_read_it(
    platform: str, people: int, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxd.config.people.count_people", lambda _platform: people)
    assert is_watched(platform) is watched

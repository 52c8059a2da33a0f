"""The probe of restarts: what it ends, what it asks afterwards, and what it lets pass."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from inference.engine.demo import demo_model_dir
from inference.engine.text import load_text
from mlxd.cli import cli
from mlxd.probe.client import ProbeFailed
from mlxd.probe.oracle import Oracle
from mlxd.probe.restart import Resumed, as_json, lines, probe
from mlxd.probe.run import Target, Turn
from mlxd.probe.served import Served
from mlxd.start_errors import StartError

TURN = Turn("SIGTERM", "one", 1000, 975, True, 20, 25, 1000, 5, "extended", 0.1)
SERVER = """
import json, os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
seen = pathlib.Path(sys.argv[2])
class Exchange(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"{}", 200 if self.path == "/v1/models" else 404)
    def do_POST(self):
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        words = json.dumps(messages).split()
        known = json.loads(seen.read_text()) if seen.exists() else []
        cached = max([len(os.path.commonprefix([words, one])) for one in known], default=0)
        seen.write_text(json.dumps([*known, words]))
        usage = {"prompt_tokens": len(words), "completion_tokens": 1}
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
        event = {"choices": [{"delta": {"content": "Yes."}}], "usage": usage}
        self.answer(f"data: {json.dumps(event)}\\n\\ndata: [DONE]\\n\\n".encode(), 200)
    def answer(self, payload, status):
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
    def log_message(self, *_):
        pass
def end(*_):
    seen.with_suffix(".ended").write_text("in order")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Exchange).serve_forever()
"""


def quiet_port() -> int:
    """One below those that the system gives to whoever asks for any: nobody takes it while its server starts again."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)):  # nobody answers
                return port
    raise AssertionError("all of them are taken")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = quiet_port()
    command = [sys.executable, "-c", SERVER, str(port), str(tmp_path / "seen")]
    with Served(f"http://127.0.0.1:{port}/v1", command, start_s=60) as one:
        yield one


def test_each_mode_ends_the_server_once_and_asks_each_conversation_again(served: Served, tmp_path: Path) -> None:
    ends: list[str] = []

    def again(number: signal.Signals) -> float:
        held = json.loads((tmp_path / "seen").read_text())
        ends.append(number.name)
        assert len(held) == {"SIGTERM": 4, "SIGKILL": 10}[number.name], "right behind the last answer"
        took_s = served.again(number)
        assert (tmp_path / "seen.ended").exists(), "SIGTERM came first, and in order"
        return took_s

    oracle = Oracle(load_text(demo_model_dir()))
    found = list(probe(Target(served.base_url, "any"), oracle, again, conversations=2, turns=2))
    assert ends == ["SIGTERM", "SIGKILL"]
    assert [(one.mode, one.turn.session) for one in found] == [
        (mode, f"{mode} {number}") for mode in ("SIGTERM", "kill -9") for number in (0, 1)
    ]
    assert all(one.turn.cached > 0.9 * one.turn.prompt and one.start_s > 0 for one in found)


def test_a_server_that_runs_already_is_ended_by_its_number_and_started_by_the_command(tmp_path: Path) -> None:
    port = quiet_port()
    command = [sys.executable, "-c", SERVER, str(port), str(tmp_path / "seen")]
    with subprocess.Popen(command) as running:
        threading.Thread(target=running.wait, daemon=True).start()  # as whoever started it would
        with Served(f"http://127.0.0.1:{port}/v1", command, running.pid, start_s=60) as one:
            assert one.again(signal.SIGTERM) > 0
            assert (tmp_path / "seen.ended").exists() and running.wait(20) == 0
            assert one.again(signal.SIGKILL) > 0, "the next one it has started itself"


def test_what_may_be_missing_depends_on_how_it_was_ended() -> None:
    in_order = Resumed("SIGTERM", TURN, 1.0)
    assert in_order.passes() and in_order.beyond_tokens == 5 and in_order.share == 0.975
    assert not in_order.passes(min_cached=0.98)
    killed = Resumed("kill -9", replace(TURN, cached=725, prefilled=275), 1.0)
    assert killed.beyond_tokens == 255 and killed.passes() and not killed.passes(max_beyond_tokens=254)
    assert not replace(in_order, turn=killed.turn).passes()
    assert not replace(in_order, turn=replace(TURN, cached=990, prefilled=10)).passes(), "it cannot have had these"
    assert as_json([in_order, killed], 0.97, 255)["passed"] and not as_json([in_order, killed], 0.98, 255)["passed"]
    assert "not what it should be" in "\n".join(lines([killed], 0.97, 200))


def test_a_server_that_ends_by_itself_is_told_with_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(ProbeFailed, match="code 1: no such model"), Served("http://127.0.0.1:9/v1", command):
        pass
    with pytest.raises(ProbeFailed, match="cannot be started"), Served("http://127.0.0.1:9/v1", ["/no/such"]):
        pass


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--pid", "4000000"], "not where it answers"),
        (["--pid", "4000000", "--base-url", "http://127.0.0.1:9"], "another one"),
        (["--", "some-server", "--port", "80"], "Nothing says where"),
    ],
)
def test_what_cannot_be_done_says_so(words: list[str], reason: str) -> None:
    error = CliRunner().invoke(cli, ["probe", "restart", *words]).exception
    assert isinstance(error, StartError) and reason in error.message

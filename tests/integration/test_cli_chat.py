"""`mlxd chat` as a person uses it: piped, and in a real terminal."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from mlxd import instance
from mlxd.paths import open_state_dir
from tests.integration.cli_peer import MLXD, nobody_listens, run


def test_one_prompt_piped_gives_the_answer_alone(home, peer):
    ended, _ = run(
        home, "chat", "--base-url", peer.url, "-p", "what?", "--max-new-tokens", "7", "--system", "Be brief."
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "forty-two\n", "")
    body = peer.requests[0]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("scripted", 7, True)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_verbose_adds_thinking_and_speed(home, peer):
    ended, _ = run(home, "chat", "--base-url", f"{peer.url}/v1", "-v", "-p", "what?")
    assert ended.stdout == "[thinking]\nhm[2J\n[answer]\nforty-two\n"
    assert "s to the first token" in ended.stderr and "3 tokens for 9 of prompt" in ended.stderr


def test_piped_lines_are_turns_and_the_reset_forgets(home, peer):
    ended, _ = run(home, "chat", "--base-url", peer.url, input="one\ntwo\n/new\nimage:/x.png what?\nthree\n")
    assert ended.returncode == 0
    sent = [[message["content"] for message in body["messages"]] for body in peer.requests]
    assert sent == [["one"], ["one", "forty-two", "two"], ["three"]]
    assert "Images cannot be sent yet" in ended.stderr


def test_the_local_daemon_is_found(home, peer, tmp_path):
    state = open_state_dir(tmp_path / "state")
    with instance.claim(state):
        instance.publish(state, peer.url)
        assert run(home, "chat", "-p", "what?")[0].stdout == "forty-two\n"


def test_a_key_comes_from_a_file(home, peer, tmp_path):
    (tmp_path / "key").write_text("k-123\n")
    run(home, "chat", "--base-url", peer.url, "--api-key-file", str(tmp_path / "key"), "-p", "x")
    assert peer.requests[0]["key"] == "Bearer k-123"


def test_errors_are_readable(home, peer):
    with nobody_listens() as port:
        for arguments, says in (
            (["--base-url", f"http://127.0.0.1:{port}"], "Nobody answers"),
            (["--base-url", "nonsense"], "no base URL"),
            (["--base-url", peer.url, "--model", "missing"], "There is no model 'missing' here. (HTTP 404)"),
            (["--base-url", f"{peer.url}/api", "--model", "m"], "usually ends in /v1"),
            (["--base-url", peer.url, "--api-key-file", "/nowhere"], "/nowhere"),
        ):
            ended, _ = run(home, "chat", *arguments, "-p", "x")
            assert ended.returncode == 2 and says in ended.stderr, ended.stderr
            assert "Traceback" not in ended.stderr


IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
PROMPT = "\x1b[0m>"
"""As the line editor paints it; the terminal is its own by then."""


class Terminal:
    """`mlxd chat` in a pseudo-terminal that is its own, so that Ctrl-C reaches it and nobody else."""

    def __init__(self, environ, *arguments):
        self.master, slave = pty.openpty()
        command = [sys.executable, "-c", IN_TERMINAL, *MLXD, "chat", *arguments]
        self.process = subprocess.Popen(command, env=environ, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, text, seconds=120):
        """Reads until `text` appears after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def exit_code(self, seconds=120):
        """What the program ends with; all it writes meanwhile is read, or it could not end."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still there: {self.seen!r}"
            with contextlib.suppress(OSError):
                if select.select([self.master], [], [], 0.1)[0]:
                    self.seen += os.read(self.master, 4096).decode(errors="replace")
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(home, peer):
    terminal = Terminal(home, "--base-url", peer.url)
    yield terminal
    terminal.close()


def test_a_conversation_in_a_terminal(terminal, peer):
    terminal.wait_for(PROMPT)
    terminal.type("one\r")
    terminal.wait_for("\x1b[2mhm[2J")  # dimmed, and the model's own escape disarmed
    terminal.wait_for("\x1b[22mforty-two")
    terminal.wait_for("tok/s")
    terminal.wait_for(PROMPT)
    terminal.type("half a line\x0e")  # Ctrl-N throws away what was being typed
    terminal.wait_for("new conversation")
    terminal.type("two\r")
    terminal.wait_for("forty-two")
    terminal.wait_for(PROMPT)
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert [[message["content"] for message in body["messages"]] for body in peer.requests] == [["one"], ["two"]]


def test_ctrl_c_stops_an_answer_and_twice_quits(terminal, peer):
    peer.endless = True
    terminal.wait_for(PROMPT)
    terminal.type("go on for ever\r")
    terminal.wait_for("x x x")
    terminal.type("\x03")
    terminal.wait_for("stopped")
    assert peer.broken_pipes.wait(60)  # the server notices that nobody listens
    peer.endless = False
    terminal.wait_for(PROMPT)
    terminal.type("again\r")
    terminal.wait_for("forty-two")
    assert peer.requests[1]["messages"][1]["content"].startswith(
        "forty-x x"
    )  # a stopped answer stays as far as it came
    terminal.wait_for(PROMPT)
    terminal.type("\x03")
    terminal.wait_for("again to quit")
    terminal.type("\x03")
    assert terminal.exit_code() == 0

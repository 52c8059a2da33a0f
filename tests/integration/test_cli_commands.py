"""The commands as a person runs them: real processes, real sockets, a real terminal for the chat."""

import contextlib
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlxd import instance
from mlxd.paths import open_state_dir

MLXD = [sys.executable, "-m", "mlxd"]


@pytest.fixture
def home(tmp_path):
    """An environment of its own: no settings, an empty model cache, a fresh state directory."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLXD_", "HF_"))}
    return environ | {"HF_HOME": str(tmp_path / "hf"), "MLXD_STATE_DIR": str(tmp_path / "state"), "TERM": "xterm"}


def run(environ, *arguments, **options):
    began = time.monotonic()
    ended = subprocess.run(
        [*MLXD, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False, **options
    )
    return ended, time.monotonic() - began


# --- serve: refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.7.7"])
def test_an_exposed_address_is_refused(host, home):
    ended, _ = run(home, "serve", "--demo", "--host", host)
    assert ended.returncode == 2
    assert "`host`" in ended.stderr and "`require_key`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_variable_alone_opens_it(home):
    ended, _ = run(home | {"MLXD_HOST": "0.0.0.0", "MLXD_REQUIRE_KEY": "true"}, "serve")
    assert ended.returncode == 2 and "no key yet" in ended.stderr and "mlxd keys add" in ended.stderr


def test_a_second_instance_is_refused_quickly(home, tmp_path):
    with instance.claim(open_state_dir(tmp_path / "state")):
        before = sorted(path.name for path in (tmp_path / "state").iterdir())
        ended, took_s = run(home, "serve", "--port", "0")
        assert ended.returncode == 2
        assert f"process {os.getpid()}" in ended.stderr
        assert took_s < 10  # 0.5 s on an idle machine
        assert sorted(path.name for path in (tmp_path / "state").iterdir()) == before


def test_a_taken_port_names_its_holder_and_leaves_it_alone(home):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended, _ = run(home, "serve", "--demo", "--port", str(port))
        assert ended.returncode == 2
        assert f"Port {port}" in ended.stderr and f"process {os.getpid()}" in ended.stderr
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_loose_state_directory_is_refused(home, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    ended, _ = run(home, "serve", "--demo")
    assert ended.returncode == 2 and "chmod 700" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "eighty"], "--port"),
        (["--model", "/nowhere/model"], "no such directory"),
        (["--model", "not a repo"], "names no repository"),
    ],
)
def test_wrong_settings_are_explained(arguments, says, home):
    ended, _ = run(home, "serve", *(["--port", "0"] if "--port" not in arguments else []), *arguments)
    assert ended.returncode == 2 and says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_directory_without_a_model_is_explained(home, tmp_path):
    ended, _ = run(home, "serve", "--port", "0", "--model", str(tmp_path))
    assert ended.returncode == 2 and "config.json" in ended.stderr


def test_an_unreachable_hub_is_explained(home):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ended, _ = run(home, "serve", "--port", "0", "--model", "o/r", "--hf-endpoint", f"http://127.0.0.1:{port}")
    assert ended.returncode == 2
    assert "Downloading o/r" in ended.stderr and "could not be downloaded" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- models, config, doctor -------------------------------------------------------------------------------------


def put_model(hf_home, repo_id, config):
    folder = hf_home / "hub" / ("models--" + repo_id.replace("/", "--"))
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "model.safetensors").write_bytes(b"x" * 1000)


def test_models_lists_what_is_here(home, tmp_path):
    assert "No models here yet" in run(home, "models")[0].stdout
    causal = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 32768}
    put_model(tmp_path / "hf", "o/text", causal)
    put_model(tmp_path / "hf", "o/eyes", causal | {"vision_config": {}})
    put_model(tmp_path / "hf", "o/embedder", {"architectures": ["BertModel"]})
    rows = {row["id"]: row for row in json.loads(run(home, "models", "--json")[0].stdout)}
    assert rows.keys() == {"o/text", "o/eyes"}
    assert rows["o/text"] | {"context_tokens": 32768, "kind": "text", "size_bytes": 1000, "state": ""} == rows["o/text"]
    assert rows["o/eyes"]["kind"] == "vision"
    assert re.search(r"o/text +0\.0 MiB +32,768 +text", run(home, "models")[0].stdout)


def test_models_says_what_a_running_daemon_serves(home, tmp_path, peer):
    put_model(tmp_path / "hf", "o/idle", {"architectures": ["LlamaForCausalLM"]})
    state = open_state_dir(tmp_path / "state")
    with instance.claim(state):
        instance.publish(state, peer.url)
        rows = {row["id"]: row["state"] for row in json.loads(run(home, "models", "--json")[0].stdout)}
    assert rows == {"o/idle": "", "scripted": "served"}


def test_config_reads_the_state_directorys_file(home, tmp_path):
    open_state_dir(tmp_path / "state")
    (tmp_path / "state" / ".env").write_text("MLXD_MAX_BATCH=2\nMLXD_PROT=1\n")
    ended, _ = run(home, "config", "--json")
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert (rows["max_batch"]["value"], rows["max_batch"]["source"]) == (2, ".env")
    assert rows["state_dir"]["source"] == "environment"
    assert "MLXD_PORT" in ended.stderr


def test_doctor_passes_here_and_fails_for_a_taken_port(home):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended, _ = run(home, "doctor", "--json", "--port", str(server.getsockname()[1]))
        findings = {finding["name"]: finding for finding in json.loads(ended.stdout)}
        assert ended.returncode == 1
        assert [name for name, finding in findings.items() if finding["status"] == "fail"] == ["port"]
    ended, _ = run(home, "doctor", "--port", "0")
    assert ended.returncode == 0, ended.stdout
    assert "versions: mlxd" in ended.stdout


def test_manage_runs_djangos_commands(home):
    ended, _ = run(home, "manage", "version")
    assert ended.returncode == 0 and re.match(r"\d+\.\d+", ended.stdout)


# --- chat -------------------------------------------------------------------------------------------------------


class Peer:
    """A scripted server of the OpenAI chat API: records requests, answers with a thought and a text."""

    def __init__(self):
        self.requests, self.broken_pipes, self.endless = [], threading.Event(), False
        peer = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path != "/v1/models":
                    return self.reply(404, {"error": {"message": "Not here."}})
                return self.reply(200, {"data": [{"id": "scripted"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                peer.requests.append(body | {"key": self.headers.get("Authorization")})
                if self.path != "/v1/chat/completions":
                    return self.reply(404, {"error": {"message": "Not here."}})
                if body["model"] == "missing":
                    return self.reply(404, {"error": {"message": "There is no model 'missing' here."}})
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    self.stream()
                except OSError:
                    peer.broken_pipes.set()
                return None

            def stream(self):
                self.event({"delta": {"reasoning_content": "hm\x1b[2J"}})
                self.event({"delta": {"content": "forty-"}})
                while peer.endless:
                    self.event({"delta": {"content": "x "}})
                    time.sleep(0.02)
                self.event({"delta": {"content": "two"}, "finish_reason": "stop"})
                usage = {"prompt_tokens": 9, "completion_tokens": 3}
                self.wfile.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())

            def event(self, choice):
                self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
                self.wfile.flush()

            def reply(self, status, body):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.endless = False
    peer.server.shutdown()
    peer.server.server_close()


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
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    for arguments, says in (
        (["--base-url", dead], "Nobody answers"),
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

    def wait_for(self, text, seconds=30):
        """Reads until `text` appears after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def exit_code(self, seconds=30):
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
    assert peer.broken_pipes.wait(20)  # the server notices that nobody listens
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

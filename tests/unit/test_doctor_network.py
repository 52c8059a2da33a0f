"""What `mlxd doctor` says of the port, the daemon behind it and the addresses that clients use."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlxd import instance
from mlxd.doctor import (
    Status,
    network,
)
from mlxd.doctor.port_holder import PortHolder, port_holder
from mlxd.paths import write_private
from tests.doctor_scene import healthy, ill


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start_listener(*words):
    """A process that listens and whose command line ends with `words`; returns it and its port."""
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def test_a_free_port(scene, listener):
    assert port_holder(listener) is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert port_holder(free) is None
    healthy(network.port(scene(port=free)))
    healthy(network.port(scene(port=0)))


def test_a_foreign_process_is_named_and_left_alone(scene):
    process, port = start_listener()
    try:
        said = ill(network.port(scene(port=port)))
        assert f"process {process.pid}" in said and "not mlxd" in said and "--port" in said
        assert process.poll() is None
    finally:
        process.communicate()


def test_an_mlxd_of_another_state_directory_is_told_apart(scene):
    process, port = start_listener("mlxd", "serve")
    try:
        assert f"kill {process.pid}" in ill(network.port(scene(port=port)), Status.WARN)
    finally:
        process.communicate()


def test_our_own_daemon_may_hold_the_port(scene, listener):
    with instance.claim(scene().state):
        healthy(network.port(scene(port=listener)))


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        ("/venv/bin/python /venv/bin/mlxd serve --demo", True),
        ("python -m mlxd serve", True),
        ("/venv/bin/mlxd chat", False),
        ("vim mlxd.py", False),
        ("node serve", False),
    ],
)
def test_which_commands_are_ours(command, ours):
    assert PortHolder(1, command).is_mlxd is ours


@pytest.fixture
def answering(scene):
    """A real HTTP server with the statuses given, published as this state directory's daemon."""
    servers = []

    def start(statuses):
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = statuses[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        instance.publish(scene().state, f"http://127.0.0.1:{server.server_port}")

    with instance.claim(scene().state):
        yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_daemon_that_answers(scene, answering):
    answering({"/health/ready": (200, {}), "/health/live": (200, {})})
    healthy(network.daemon(scene()))


def test_a_daemon_that_is_loading(scene, answering):
    answering({"/health/ready": (503, {"reason": "model_loading"}), "/health/live": (200, {})})
    assert "model_loading" in ill(network.daemon(scene()), Status.WARN)


def test_a_daemon_whose_engine_hangs(scene, answering):
    answering({"/health/ready": (503, {}), "/health/live": (503, {})})
    assert "kill" in ill(network.daemon(scene()))


def test_a_daemon_that_holds_the_lock_and_does_not_answer(scene, answering, listener):
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = server.getsockname()[1]
    instance.publish(scene().state, f"http://127.0.0.1:{dead}")
    assert "does not answer" in ill(network.daemon(scene()))


def test_a_daemon_that_does_not_listen_yet(scene):
    with instance.claim(scene().state):
        ill(network.daemon(scene()), Status.WARN)


def test_no_daemon_explains_connection_refused(scene):
    write_private(scene().state.daemon, '{"pid": 1, "url": "http://127.0.0.1:9"}')  # left by a killed one
    assert "connection refused" in healthy(network.daemon(scene()))


def test_a_proxy_in_the_environment_does_not_get_between(scene, answering, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    answering({"/health/ready": (200, {}), "/health/live": (200, {})})
    healthy(network.daemon(scene()))


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "MLX_LM_URL"])
def test_base_urls_without_v1(name, scene):
    for url in ("http://127.0.0.1:8080", "http://localhost:8080/"):
        assert "/v1" in ill(network.client_addresses(scene({name: url})), Status.WARN)
    for url in ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1/", "https://api.example/x", "", "http://[", "x"):
        healthy(network.client_addresses(scene({name: url})))


def test_the_anthropic_dialect_is_not_here_yet(scene):
    environ = {"ANTHROPIC_BASE_URL": "http://localhost:8080/anthropic"}
    ill(network.client_addresses(scene(environ)), Status.WARN)

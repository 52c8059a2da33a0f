"""The admin's orders to a real daemon, by `curl` as other servers' manuals write them, with the token added."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import curl_lines
from tests.e2e.daemon import START_S, ServedDaemon
from tests.e2e.scripted_client import SCRIPTED
from tests.tiny_models import build

SENDERS = (curl_lines.by_socket, curl_lines.curl)


def curl(daemon: ServedDaemon, path: str, *arguments: str) -> Any:
    token = daemon.admin["Authorization"]
    return json.loads(curl_lines.curl(f"{daemon.url}{path}", *arguments, "-H", f"Authorization: {token}"))


def request_on(connection: socket.socket) -> bytes:
    read = connection.makefile("rb")
    lines = [*iter(read.readline, b"\r\n"), b"\r\n"]
    length = sum(int(line.split(b":")[1]) for line in lines if line.startswith(b"Content-Length:"))
    return b"".join(lines) + read.read(length)


@pytest.mark.parametrize(
    "line",
    [
        (),
        ("-X", "POST", "-H", "Authorization: Bearer t"),
        ("-X", "POST", "-H", "Content-Type: application/json", "-d", "{}", "-H", "Authorization: Bearer t"),
        ("-d", "a=b"),
    ],
)
def test_what_is_sent_without_curl_is_what_curl_sends(line: tuple[str, ...]) -> None:
    heard = []
    for send in SENDERS:
        with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
            listening.settimeout(60)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/a/b?c=d"
            answer = pool.submit(send, url, *line)
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(60)
                heard.append(request_on(connection).replace(url.split("/")[2].encode(), b"HOST"))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Other: y\r\n\r\nok")
                assert answer.result(60) == "ok"
    assert heard[0].count(b"\r\n\r\n") == 1 and b"/a/b?c=d" in heard[0]
    first, second = (re.sub(rb"curl/[\d.]+", b"curl", one) for one in heard)
    assert first == second


def test_other_servers_curl_lines_work_and_settings_survive(serve: Callable[..., ServedDaemon], tmp_path: Path) -> None:
    second = build(tmp_path / "root" / "second", "dense", seed=8)
    daemon = serve("--model-root", str(tmp_path / "root"), "--max-models", "2")
    daemon.wait_ready()
    loaded = curl(daemon, f"/api/models/load?model_id={second}", "-X", "POST")
    assert loaded["model"]["id"] == "second" and loaded["model"]["state"] == "ready"
    body = {"model": "second", "prompt": "Once", "max_tokens": 2}
    assert (
        httpx.post(f"{daemon.url}/v1/completions", json=body, timeout=60).raise_for_status().json()["model"] == "second"
    )
    assert curl(daemon, "/api/cache/stats")["enabled"]
    account = curl(daemon, "/api/memory")["account"]
    assert abs(account["unexplained_bytes"]) < 0.5 * account["active_bytes"]
    gone = curl(daemon, f"/api/models/unload?model_id={second}", "-X", "POST")["unloaded"]
    assert gone[0]["freed_bytes"] >= gone[0]["weights_bytes"] > 0
    assert len(curl(daemon, "/api/models/unload", "-X", "POST")["unloaded"]) == 1
    assert curl(daemon, "/api/settings/model-cache")["max_size"] == 2
    asked = ("-X", "POST", "-H", "Content-Type: application/json", "-d", '{"max_size": 1}')
    assert curl(daemon, "/api/settings/model-cache", *asked)["max_size"] == 1
    assert daemon.terminate() == 0
    with ServedDaemon(daemon.state_dir, ["--model", str(second)]) as again:
        assert curl(again, "/api/settings/model-cache")["max_size"] == 1
        saved = {row["name"]: row["source"] for row in curl(again, "/api/settings")["settings"]}
        assert (saved["max_models"], saved["models"], saved["port"]) == ("saved", "flag", "flag")


def test_an_order_without_the_token_is_no_order(daemon: ServedDaemon) -> None:
    for path in ("/api/models/load?model_id=x", "/api/models/unload"):
        assert httpx.post(f"{daemon.url}{path}", timeout=60).status_code == 415
        assert httpx.post(f"{daemon.url}{path}", json={}, timeout=60).status_code == 401
        wrong = {**daemon.admin, "Content-Type": "text/plain"}
        assert httpx.post(f"{daemon.url}{path}", headers=wrong, timeout=60).status_code == 415
        assert httpx.post(f"{daemon.url}{path}", headers=daemon.admin, content=b"{}", timeout=60).status_code == 415


def test_a_model_whose_loading_kills_the_process_is_left_alone(tmp_path: Path) -> None:
    """Three starts die in the load; the fourth loads nothing unasked, and an order loads it all the same."""
    state = tmp_path / "state"
    deadly = {"SCRIPT": json.dumps({"load_faults": {"0": "ABORT"}})}
    for _ in range(3):
        doomed = ServedDaemon(state, ["--demo"], SCRIPTED, deadly)
        assert doomed.process.wait(START_S) != 0
        doomed.kill()
    sound = {"SCRIPT": json.dumps({"limits": {"vocab_size": 300_000}})}
    with ServedDaemon(state, ["--demo"], SCRIPTED, sound) as served:
        (model,) = curl(served, "/api/models")["models"]
        assert model["state"] == "failed" and "died 3 times" in model["error"]
        refused = httpx.post(f"{served.url}/v1/completions", json={"prompt": "Once", "max_tokens": 2}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_held_back")
        assert refused.headers["x-should-retry"] == "false"
        assert curl(served, f"/api/models/load?model_id={model['id']}", "-X", "POST")["model"]["state"] == "ready"
        body = {"prompt": "Once", "max_tokens": 2}
        assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).status_code == 200

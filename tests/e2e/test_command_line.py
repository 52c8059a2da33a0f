"""The commands beside a real daemon with a real, tiny model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import httpx

from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment


def run(daemon: ServedDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*MLXD, *arguments, "--state-dir", str(daemon.state_dir)]
    return subprocess.run(
        command,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_chat_finds_the_daemon_and_answers(daemon: ServedDaemon) -> None:
    ended = run(daemon, "chat", "-v", "-p", "Say something.", "--max-new-tokens", "8")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert "8 tokens for" in ended.stderr and "tok/s" in ended.stderr


def test_models_says_what_is_loaded(daemon: ServedDaemon) -> None:
    (row,) = [row for row in json.loads(run(daemon, "models", "--json").stdout) if row["state"]]
    assert (row["state"], row["kind"]) == ("loaded", "text")
    assert row["size_bytes"] > 0 and row["context_tokens"] > 0


def test_models_are_loaded_and_unloaded(serve: Callable[..., ServedDaemon]) -> None:
    served = serve()
    served.wait_ready()
    (receipt,) = json.loads(run(served, "models", "unload", "--json").stdout)["unloaded"]
    assert receipt["freed_bytes"] >= receipt["weights_bytes"] > 0
    assert run(served, "models", "unload").stdout == "Nothing was in memory.\n"
    loaded = run(served, "models", "load", receipt["id"])
    assert loaded.stdout.startswith(f"{receipt['id']} is in memory: "), loaded.stderr
    refused = run(served, "models", "load", "./nowhere")
    assert refused.returncode == 2 and "no such model" in refused.stderr


def test_doctor_finds_the_daemon_well(daemon: ServedDaemon) -> None:
    port = daemon.url.rpartition(":")[2]
    findings = {
        finding["name"]: finding for finding in json.loads(run(daemon, "doctor", "--json", "--port", port).stdout)
    }
    assert (findings["daemon"]["status"], findings["port"]["status"]) == ("ok", "ok"), findings
    assert str(daemon.process.pid) in findings["port"]["what"]


def test_a_key_s_conversation_is_cleared_by_the_key_s_name(daemon: ServedDaemon) -> None:
    name, body = "sally @b", {"messages": [{"role": "user", "content": "word " * 600}], "max_tokens": 2}
    with httpx.Client(base_url=daemon.url, headers=daemon.admin, timeout=60) as client:
        key = {"Authorization": f"Bearer {client.post('/api/keys', json={'name': name}).json()['key']}"}
        asked = client.post("/v1/chat/completions", json={**body, "session_id": "s"}, headers=key)
        assert asked.status_code == 200, asked.text
        clear, theirs = ["cache", "clear", "--session", "s", "--json"], ["--key", name]
        gone = [json.loads(run(daemon, *clear, *whose).stdout)["cleared"] for whose in ([], theirs, theirs)]
        assert [any(one.values()) for one in gone] == [False, True, False], gone
        assert client.delete(f"/api/keys/{name}").status_code == 200
    assert "no such key" in run(daemon, *clear, *theirs).stderr


def test_a_second_daemon_is_told_about_the_first(daemon: ServedDaemon) -> None:
    ended = run(daemon, "serve", "--demo")
    assert ended.returncode == 2
    assert f"process {daemon.process.pid} at {daemon.url}" in ended.stderr


def test_the_banner_tells_where_to_go(daemon: ServedDaemon) -> None:
    shown = daemon.log.read_text()
    assert f"is ready at {daemon.url}" in shown
    assert f"OPENAI_BASE_URL={daemon.url}/v1" in shown
    assert "tiny" in shown

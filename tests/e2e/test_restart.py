"""A daemon is ended, in order and not, and the next one on its state directory goes on where it was."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx

from tests.e2e.daemon import ServedDaemon

SYSTEM = "You are an agent. " + " ".join(f"Rule {number} says do {number * number}." for number in range(100))
EXIT_S = 60


def turn(served: ServedDaemon, messages: list[dict[str, str]], then: str) -> tuple[int, int]:
    """Asks, puts the answer and the next question behind `messages`: prompt and cached tokens."""
    body = {"messages": messages, "max_tokens": 20, "temperature": 0}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).raise_for_status()
    answer = response.json()
    assert int(response.headers["X-Conv-Cached-Tokens"]) == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    messages += [answer["choices"][0]["message"], {"role": "user", "content": then}]
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def test_a_conversation_goes_on_after_a_sigterm_and_after_a_kill(tmp_path: Path, tiny_model: Path) -> None:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello."}]
    state, named = tmp_path / "state", ["--model", str(tiny_model)]
    with ServedDaemon(state, named) as served:
        served.wait_ready()
        assert turn(served, messages, "And then?")[1] == 0
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(EXIT_S) == 0
    with ServedDaemon(state, named) as served:
        served.wait_ready()
        prompt, cached = turn(served, messages, "And after that?")
        assert cached >= 0.97 * prompt
        served.process.kill()  # right behind the final frame
        served.process.wait(EXIT_S)
    with ServedDaemon(state, named) as served:
        served.wait_ready()
        prompt, cached = turn(served, messages, "")
        assert prompt - cached < 256 + 30, "the unfinished block and the new question"
        token = (state / "admin.token").read_text().strip()
        admin = {"Authorization": f"Bearer {token}"}
        told = httpx.get(f"{served.url}/api/cache/stats", headers=admin, timeout=60).json()["disk"]
        assert told["read_tokens"] >= cached and told["refused"] == {} and told["outage"] == ""
        view = httpx.get(f"{served.url}/api/status", headers=admin, timeout=60).json()["scheduler"]
        assert view["store"]["disk"]["state"] == "ok"


def test_without_a_disk_nothing_is_written(tmp_path: Path, tiny_model: Path) -> None:
    with ServedDaemon(tmp_path / "state", ["--model", str(tiny_model), "--ssd-cache-bytes", "0"]) as served:
        served.wait_ready()
        turn(served, [{"role": "user", "content": SYSTEM}], "")
        assert not (tmp_path / "state" / "prefixes").exists()

"""The daemon when things go wrong, each provoked for real: clients that leave, signals, and an engine that breaks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment

SCRIPTED = (sys.executable, "-P", "-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from tests.e2e.scripted_daemon import main; main()", str(Path(__file__).parents[2]))  # fmt: skip
Serve = Callable[..., ServedDaemon]


@pytest.fixture
def scripted(serve: Serve) -> Serve:
    """Starts a daemon whose engine follows a script: `scripted({"decode_s": 0.05}, "--max-batch", "1")`."""

    def start(script: dict[str, Any], *arguments: str) -> ServedDaemon:
        environment = {"SCRIPT": json.dumps(script)}
        served = serve(*arguments, command=SCRIPTED, environment=environment)
        served.wait_ready()
        return served

    return start


def body(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "stream": True, **more}


@contextmanager
def streaming(served: ServedDaemon, content: str = "hello", **more: Any) -> Iterator[httpx.Response]:
    with (
        httpx.Client(timeout=30) as http,
        http.stream("POST", f"{served.url}/v1/chat/completions", json=body(content, **more)) as response,
    ):
        yield response


def events(response: httpx.Response) -> list[str]:
    """Every data line until the end of the stream, however it ends."""
    lines: list[str] = []
    try:
        lines.extend(line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
    except httpx.HTTPError as error:
        lines.append(f"connection: {type(error).__name__}")
    return lines


def status(served: ServedDaemon) -> dict[str, Any]:
    token = (served.state_dir / "admin.token").read_text().strip()
    answer = httpx.get(f"{served.url}/api/status", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def load_of(served: ServedDaemon) -> tuple[int, int]:
    """(running, waiting)."""
    scheduler = status(served)["scheduler"]
    return len(scheduler["rows"]), scheduler["queue_depth"]


def wait_for(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def wait_for_load(served: ServedDaemon, running: int, waiting: int, limit_s: float = 5) -> None:
    wait_for(lambda: load_of(served) == (running, waiting), limit_s, f"{running} running, {waiting} waiting")


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- clients that leave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["decode", "prefill"])
def test_a_client_that_leaves_frees_its_row(scripted: Serve, stage: str) -> None:
    served = scripted({"decode_s": 0.02, "prefill_s": 0.05, "chunk_tokens": 64})
    with streaming(served, "word " * (4000 if stage == "prefill" else 1)) as response:
        lines = response.iter_lines()  # kept: a generator that is dropped closes the connection
        if stage == "decode":
            next(lines)
        wait_for_load(served, 1, 0)
    wait_for_load(served, 0, 0, limit_s=2)
    assert status(served)["scheduler"]["counters"]["cancelled"] == 1


def test_a_client_that_leaves_the_queue_never_reaches_the_engine(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02}, "--max-batch", "1")
    with streaming(served) as running:
        lines = running.iter_lines()
        next(lines)
        with streaming(served):
            wait_for_load(served, 1, 1)
        wait_for_load(served, 1, 0, limit_s=2)
    wait_for_load(served, 0, 0, limit_s=2)


def test_a_folded_request_is_cancelled_as_well(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02})
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/v1/chat/completions", json=body(stream=False), timeout=1)
    wait_for_load(served, 0, 0, limit_s=2)


# --- more than it can take ------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_at_once_and_what_was_accepted_finishes(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02}, "--max-batch", "1", "--queue-size", "2")
    answers: list[list[str]] = []

    def ask() -> None:
        with streaming(served, max_tokens=40) as response:
            answers.append(events(response))

    accepted = [in_background(ask) for _ in range(3)]
    wait_for_load(served, 1, 2)
    began_s = time.monotonic()
    refused = httpx.post(f"{served.url}/v1/chat/completions", json=body())
    assert time.monotonic() - began_s < 0.5
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_full"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    for thread in accepted:
        thread.join(20)
    assert [answer[-1] for answer in answers] == ["[DONE]"] * 3


def test_what_can_never_fit_in_memory_is_refused_with_both_figures(scripted: Serve) -> None:
    served = scripted({"limit_bytes": 3_000_000, "limits": {"kv_bytes_per_token": 1_000}})
    refused = httpx.post(f"{served.url}/v1/chat/completions", json=body("word " * 2_000))
    assert refused.status_code == 400
    assert "3" in refused.json()["error"]["message"]
    assert httpx.post(f"{served.url}/v1/chat/completions", json=body(max_tokens=2, stream=False)).status_code == 200


# --- silence ----------------------------------------------------------------------------------------------------


def test_a_long_prefill_is_not_silence(scripted: Serve) -> None:
    served = scripted({"prefill_s": 2.5}, "--keepalive-s", "0.5")
    with streaming(served, max_tokens=1) as response:
        lines = list(response.iter_lines())
    assert lines.count(": ping") >= 3
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"


# --- an engine that breaks ----------------------------------------------------------------------------------------


def error_of(lines: list[str]) -> dict[str, Any]:
    """The in-stream error; the stream must not look complete after it."""
    assert "[DONE]" not in lines
    told = [json.loads(line) for line in lines if line.startswith("{") and "error" in json.loads(line)]
    assert len(told) == 1, lines
    found: dict[str, Any] = told[0]["error"]
    return found


def test_the_death_of_the_worker_is_told_and_ends_the_process(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"10": "EXIT"}})
    with streaming(served) as response:
        lines = events(response)
    assert error_of(lines)["code"] == "engine_fatal"
    assert served.process.wait(10) == 70


def test_a_hang_is_seen_told_and_ends_the_process(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"10": "HANG"}}, "--watchdog-s", "1")
    with streaming(served) as response:
        lines = events(response)
    assert error_of(lines)["code"] == "generation_stalled"
    assert served.process.wait(15) == 70
    assert "most recent call first" in (served.state_dir / "logs" / "stacks.txt").read_text()


def test_a_native_abort_is_no_clean_end(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"10": "ABORT"}})
    with streaming(served) as response:
        lines = events(response)
    assert "[DONE]" not in lines
    assert lines[-1].startswith("connection: "), "a client must not take half an answer for a whole one"
    assert served.process.wait(10) == -signal.SIGABRT


def test_one_failed_row_leaves_the_others_alone(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"20": "ROW"}})
    answers: list[list[str]] = []

    def ask(name: str) -> None:
        with streaming(served, name, max_tokens=60) as response:
            answers.append(events(response))

    for thread in [in_background(lambda name=name: ask(name)) for name in "abc"]:
        thread.join(20)
    failed = [answer for answer in answers if "[DONE]" not in answer]
    assert len(failed) == 1
    assert error_of(failed[0])["code"] == "generation_failed"
    assert served.process.poll() is None


def test_an_unsafe_engine_is_rebuilt_and_serves_again(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.01, "step_faults": {"10": "FATAL"}})
    with streaming(served) as response:
        assert error_of(events(response))["code"] == "engine_fatal"
    served.wait_ready()
    again = httpx.post(f"{served.url}/v1/chat/completions", json=body(stream=False, max_tokens=5), timeout=10)
    assert again.status_code == 200
    assert status(served)["scheduler"]["counters"]["engine_rebuilds"] == 1


# --- signals --------------------------------------------------------------------------------------------------------


def test_sigterm_lets_a_running_answer_finish(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.05})
    with streaming(served, max_tokens=40) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _connects(served), 2, "the listener is closed")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert served.process.wait(10) == 0


def test_past_the_drain_limit_an_answer_ends_with_an_error(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.05}, "--drain-s", "0.5")
    with streaming(served) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        rest: list[str] = []
        try:
            rest.extend(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
        except httpx.HTTPError:
            rest.append("connection")
    assert error_of(rest)["code"] == "draining"
    assert served.process.wait(10) == 0


def test_an_engine_that_cannot_be_interrupted_does_not_hold_the_end_up(scripted: Serve) -> None:
    """Left to the interpreter's end, the threads of MLX make it abort."""
    served = scripted({"decode_s": 60}, "--drain-s", "0.2")
    with streaming(served) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        with suppress(httpx.HTTPError):  # cut off: the worker, who would tell it, does not hear
            list(lines)
    assert served.process.wait(30) == 0
    assert "worker_left_behind" in served.log.read_text()


def test_a_second_sigterm_ends_it_at_once(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.05})
    with streaming(served) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _connects(served), 2, "the listener is closed")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(2) == 143


def test_sleep_is_no_hang(scripted: Serve) -> None:
    """A laptop that slept for longer than the watchdog's patience goes on where it was."""
    served = scripted({"decode_s": 0.05}, "--watchdog-s", "1")
    with streaming(served, max_tokens=60) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        served.process.send_signal(signal.SIGCONT)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert served.process.poll() is None


def test_sighup_goes_on_and_sigquit_writes_stacks(scripted: Serve) -> None:
    served = scripted({})
    served.process.send_signal(signal.SIGHUP)
    served.process.send_signal(signal.SIGQUIT)
    stacks = served.state_dir / "logs" / "stacks.txt"
    wait_for(lambda: "mlxd" in stacks.read_text(), 5, "stacks are written")
    assert httpx.get(f"{served.url}/health/live").status_code == 200


def _connects(served: ServedDaemon) -> bool:
    port = int(served.url.rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- starts that are refused ------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MLXD, "serve", "--demo", *arguments], env=clean_environment(), capture_output=True, text=True, timeout=30
    )


def test_one_daemon_per_state_directory(scripted: Serve) -> None:
    served = scripted({})
    second = start("--state-dir", str(served.state_dir), "--port", "0")
    assert second.returncode == 2
    assert str(served.process.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_taken_port_is_told(scripted: Serve, tmp_path: Path) -> None:
    served = scripted({})
    port = served.url.rpartition(":")[2]
    second = start("--state-dir", str(tmp_path / "other"), "--port", port)
    assert second.returncode == 2
    assert port in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_only_loopback(tmp_path: Path, host: str) -> None:
    refused = start("--state-dir", str(tmp_path / "state"), "--host", host)
    assert refused.returncode == 2
    assert "host" in refused.stderr and "require_key" in refused.stderr


def test_kill_9_leaves_nothing_in_the_way(serve: Serve) -> None:
    first = serve()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(10)
    with ServedDaemon(first.state_dir, first.arguments) as second:
        second.wait_ready()
        assert second.terminate() == 0

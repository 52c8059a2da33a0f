"""The daemon told to end, asleep, and in the way of another: each for real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment
from tests.e2e.scripted_client import Serve, error_of, streaming, wait_for

# --- signals ----------------------------------------------------------------------------------------------------------


def test_sigterm_lets_a_running_answer_finish(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.05})
    with streaming(served, max_tokens=40) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _connects(served), 60, "the listener is closed")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert served.process.wait(60) == 0


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
    assert served.process.wait(60) == 0


def test_an_engine_that_cannot_be_interrupted_does_not_hold_the_end_up(scripted: Serve) -> None:
    """Left to the interpreter's end, the threads of MLX make it abort."""
    served = scripted({"decode_s": 60}, "--drain-s", "0.2")
    with streaming(served) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        with suppress(httpx.HTTPError):  # cut off: the worker, who would tell it, does not hear
            list(lines)
    assert served.process.wait(120) == 0
    assert "worker_left_behind" in served.log.read_text()


def test_a_second_sigterm_ends_it_at_once(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.05})
    with streaming(served) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _connects(served), 60, "the listener is closed")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(120) == 143, "it did not drain, which ends with 0"


def test_sleep_is_no_hang(scripted: Serve) -> None:
    """A laptop that slept for longer than the watchdog's patience goes on where it was."""
    served = scripted({"decode_s": 0.05}, "--watchdog-s", "2")
    with streaming(served, max_tokens=60) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        served.process.send_signal(signal.SIGCONT)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert served.process.poll() is None


def test_sighup_goes_on_and_sigquit_writes_stacks(scripted: Serve) -> None:
    served = scripted({})
    served.process.send_signal(signal.SIGHUP)
    served.process.send_signal(signal.SIGQUIT)
    stacks = served.state_dir / "logs" / "stacks.txt"
    wait_for(lambda: "mlxd" in stacks.read_text(), 60, "stacks are written")
    assert httpx.get(f"{served.url}/health/live", timeout=60).status_code == 200


def _connects(served: ServedDaemon) -> bool:
    port = int(served.url.rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- starts that are refused ------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MLXD, "serve", "--demo", *arguments], env=clean_environment(), capture_output=True, text=True, timeout=240
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
    first.process.wait(60)
    with ServedDaemon(first.state_dir, first.arguments) as second:
        second.wait_ready()
        assert second.terminate() == 0

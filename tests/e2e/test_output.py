"""A daemon whose standard streams nobody reads, or which has none: it serves, keeps its log, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.daemon import START_S, clean_environment
from tests.e2e.scripted_client import SCRIPTED, wait_for

LIMIT_S = 60
CLOSED = ("/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh")


def full_pipe(opened: ExitStack) -> int:
    """The end to write to of a pipe that takes nothing more; its reader is there, and has stopped."""
    reader, writer = os.pipe()
    opened.callback(os.close, reader)
    opened.callback(os.close, writer)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return writer


def pipe_without_reader(opened: ExitStack) -> int:
    reader, writer = os.pipe()
    os.close(reader)
    opened.callback(os.close, writer)
    return writer


@contextmanager
def started(state: Path, model: Path, streams: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its URL, which its state directory tells."""
    with ExitStack() as opened:
        full = streams == "full"
        output = full_pipe(opened) if full else pipe_without_reader(opened)
        arguments = ["serve", "--port", "0", "--state-dir", str(state), "--model", str(model)]
        command = [*(() if full else CLOSED), *SCRIPTED, *arguments]
        process = subprocess.Popen(
            command, stdout=output, stderr=output if full else None, env=clean_environment(SCRIPT="{}")
        )
        try:
            wait_for((state / "daemon.json").exists, START_S, "it listens")
            yield process, json.loads((state / "daemon.json").read_text())["url"]
        finally:
            process.kill()
            process.wait(60)


@pytest.mark.parametrize("streams", ["full", "closed"])
def test_nobody_has_to_read_what_it_says(tmp_path: Path, tiny_model: Path, streams: str) -> None:
    state = tmp_path / "state"
    with started(state, tiny_model, streams) as (process, url):
        wait_for(lambda: httpx.get(f"{url}/health/ready", timeout=60).status_code == 200, START_S, "it is ready")
        wrong = {"Authorization": "Bearer mlxd_sk_none"}
        assert httpx.get(f"{url}/v1/models", headers=wrong, timeout=60).status_code == 401
        assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 200
        log = state / "logs" / "mlxd.log"
        wait_for(lambda: "invalid_api_key" in log.read_text(), LIMIT_S, "the file has its lines")
        taken = [name.readlink() for name in sorted(Path(f"/proc/{process.pid}/fd").iterdir()) if int(name.name) < 3]
        assert not any(place.is_relative_to(state) for place in taken), "no file of ours is a standard stream"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0

"""The servers and loops that are measured, each a process of its own with the same BLAS and threads."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks import machine, rapid_mlx
from tests.e2e.daemon import MLXD, ServedDaemon

ROOT = Path(__file__).parents[2]
START_S = 60.0
SLOW_START_S = 180.0


@contextmanager
def mlxd(
    model: Path, *arguments: str, threads: int = 1, command: Sequence[str] = MLXD, **variables: str
) -> Iterator[ServedDaemon]:
    """`mlxd serve --model MODEL ARGUMENTS`, ready. Without audits: they compute again on purpose, in idle moments."""
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        served = ServedDaemon(
            Path(made) / "state",
            ["--model", str(model), "--audit-every", "0", *arguments],
            command=command,
            environment={**machine.blas(threads), **variables},
        )
        with served:
            served.wait_ready()
            yield served


def module(name: str) -> tuple[str, ...]:
    """The command that runs a module of the tests."""
    start = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_module({name!r}, run_name='__main__')"
    return (sys.executable, "-P", "-c", start)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server of somebody else's."""

    url: str
    pid: int


@contextmanager
def mlx_lm_server(
    model: Path, *, threads: int = 1, launch: Sequence[str] = (sys.executable, "-m")
) -> Iterator[Peer | str]:
    """`mlx_lm.server` with its own defaults, ready; or why there is none."""
    port = machine.free_port()
    command = [*launch, "mlx_lm", "server", "--model", str(model), "--port", str(port)]
    with _served("mlx_lm.server", command, port, machine.environment(threads, HF_HUB_OFFLINE="1")) as peer:
        yield peer


@contextmanager
def rapid_mlx_server(model: Path, *, threads: int = 1, launch: Sequence[str] = ("-m",)) -> Iterator[Peer | str]:
    """`rapid-mlx serve` with its own defaults and an empty home (it keeps KV there), ready; or why there is none.

    `launch` is what follows the interpreter, which is that of its own environment.
    """
    if (python := rapid_mlx.python()) is None:
        yield "rapid-mlx is not installed (--install-peers)"
        return
    port = machine.free_port()
    command = [str(python), *launch, "rapid_mlx.cli", "serve", str(model), "--port", str(port), "--yes"]
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as home:
        quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "RAPID_MLX_TELEMETRY": "0", "HOME": home}
        environment = machine.environment(threads, **quiet)
        with _served("rapid-mlx", command, port, environment, SLOW_START_S) as peer:
            yield peer


@contextmanager
def _served(
    name: str, command: Sequence[str], port: int, environment: dict[str, str], start_s: float = START_S
) -> Iterator[Peer | str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            if _answers(process, url, start_s):
                yield Peer(url, process.pid)
            else:
                log.seek(0)
                yield f"{name} did not start: {_last_line(log.read())}"
        finally:
            process.kill()
            process.wait(10)


def _last_line(output: bytes) -> str:
    """What a process said last, where errors are told."""
    return next((line for line in reversed(output.decode(errors="replace").splitlines()) if line.strip()), "")[:200]


def _answers(process: subprocess.Popen[bytes], url: str, start_s: float) -> bool:
    until_s = time.monotonic() + start_s
    while time.monotonic() < until_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return True
        except httpx.HTTPError:
            time.sleep(0.1)
    return False


class BareLoop:
    """`mlx_lm.stream_generate` in a child, nothing around it (see `bare_loop.py`)."""

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        self._process = subprocess.Popen(
            [*module("tests.benchmarks.bare_loop"), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=machine.environment(threads),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> BareLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)

    def run(self, content: str, max_tokens: int) -> dict[str, Any]:
        """`tokens`, `token_s` (time per token after the first) and `ttft_s`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"content": content, "max_tokens": max_tokens}), file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

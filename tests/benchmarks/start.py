"""How soon the port answers, against importing the web stack; how soon the demo speaks, against loading a model."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.client import begin, chat
from tests.benchmarks.figure import Figure, Spread, at_most
from tests.e2e.daemon import MLXD

ROUNDS = 5
LIMIT_S = 60.0
IMPORTS = "from django.conf import settings; settings.configure(); import daphne.server, django, ninja, channels"
"""django-ninja cannot be imported before Django has settings; these are empty."""
ASSETS = Path(__file__).parents[2] / "inference" / "engine" / "demo" / "assets"
LOAD = "import sys, mlx_lm; mlx_lm.load(sys.argv[1])"


def run() -> Iterator[Figure]:
    if not (ASSETS / "model.safetensors").exists():
        yield from without_demo("the demo model's files are not there")
        return
    imported: list[float] = []
    loaded: list[float] = []
    live: list[float] = []
    first: list[float] = []
    for turn in range(-1, ROUNDS):  # the first one warms the disk cache
        found = child_s(IMPORTS), child_s(LOAD, str(ASSETS)), *start_s("--demo", speak=True)
        if turn >= 0:
            for times_s, value in zip((imported, loaded, live, first), found, strict=True):
                times_s.append(value)
    yield live_figure(imported, live)
    ratios = [f / (up + 1.5 * load) for f, up, load in zip(first, live, loaded, strict=True)]
    detail = f"first token {Spread.of(first)} s, import mlx_lm and load {Spread.of(loaded)} s"
    yield at_most("start, first token of the demo", ratios, 1.0, detail, "of live + 1.5 x (import mlx_lm + load)")


def without_demo(why: str) -> Iterator[Figure]:
    imported, live = [], []
    for turn in range(-1, ROUNDS):
        found = child_s(IMPORTS), start_s(speak=False)[0]
        if turn >= 0:
            imported.append(found[0])
            live.append(found[1])
    yield live_figure(imported, live)
    yield Figure("start, first token of the demo", not_run=why)


def live_figure(imported: list[float], live: list[float]) -> Figure:
    ratios = [up / base for up, base in zip(live, imported, strict=True)]
    return at_most("start, live", ratios, 1.5, f"live {Spread.of(live)} s, imports {Spread.of(imported)} s")


def child_s(code: str, *arguments: str) -> float:
    """Seconds of `python -c CODE`."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code, *arguments], env=machine.environment(2), check=True)
    return time.perf_counter() - began_s


def start_s(*arguments: str, speak: bool) -> tuple[float, float]:
    """Seconds from the start of the process until /health/live answers and until a first token came (else 0)."""
    port = machine.free_port()
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        command = [*MLXD, "serve", "--port", str(port), "--state-dir", f"{made}/state", *arguments]
        with (Path(made) / "output").open("wb") as output:
            began_s = time.perf_counter()
            process = subprocess.Popen(command, stdout=output, stderr=output, env=machine.environment(2))
            try:
                live_s = until_live(port, process) - began_s
                first_s = asyncio.run(first_token(port)) - began_s if speak else 0.0
            finally:
                process.kill()
                process.wait(10)
    return live_s, first_s


def until_live(port: int, process: subprocess.Popen[bytes]) -> float:
    request = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
    until_s = time.perf_counter() + LIMIT_S
    while time.perf_counter() < until_s and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as probe:
                probe.sendall(request)
                if b" 200 " in probe.recv(4096):
                    return time.perf_counter()
        except OSError:
            time.sleep(0.005)
    raise AssertionError(f"mlxd did not come up (code {process.poll()})")


async def first_token(port: int) -> float:
    """Asks at once, and again while the model is loading: as an impatient client would."""
    until_s = time.perf_counter() + LIMIT_S
    while time.perf_counter() < until_s:
        exchange = await begin(f"http://127.0.0.1:{port}", chat("What is mlxd?", 1))
        reply = await exchange.reply()
        if reply.status == 200:
            said = [at_s for at_s, chunk in reply.chunks if spoke(chunk)]
            return said[0]
        await asyncio.sleep(0.02)
    raise AssertionError("the demo said nothing")


def spoke(chunk: dict[str, object]) -> bool:
    """Whether a chunk holds text of the answer or of its reasoning."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    delta = choices[0].get("delta", {})
    return bool(delta.get("content") or delta.get("reasoning_content") or choices[0].get("finish_reason"))

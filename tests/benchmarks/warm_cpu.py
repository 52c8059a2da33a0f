"""Processor time of a warm turn against a cold one of the same length, in mlxd and in mlx_lm.server in turn.

A linear session: a long first turn, then short ones on top of it. The cold turn of a warm one is the same conversation
in other words, so that nothing of it is known. Both write the same number of tokens.

The model has 34 million parameters: on one of a fifth of that size a tenth of a warm turn is what surrounds the model,
on those that people serve next to nothing. It has as many KV heads as heads, else MLX's attention copies KV on a CPU.

The kernel counts a process's time in ticks of 10 ms, so what a turn costs is known to 5 ms at best, and rounds differ
by 15 %: the median of eight is what counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from zlib import crc32

import psutil

from tests.benchmarks import machine
from tests.benchmarks.client import ask
from tests.benchmarks.figure import Figure, Spread, at_most, report
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import Peer, mlx_lm_server, mlxd

ROUNDS: Final = 8
TURNS: Final = 2
FIRST_WORDS: Final = 500
TURN_WORDS: Final = 60
ANSWER_TOKENS: Final = 8
ANSWER: Final = "The file is read and closed."
"""What the history says the model answered: the same for both servers, whatever they really wrote."""

type Message = dict[str, str]


def run() -> Iterator[Figure]:
    """With one BLAS thread: idle ones spin, and their processor time is nobody's work."""
    model = benchmark_model(num_key_value_heads=4)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with mlxd(model, threads=1) as served, mlx_lm_server(model, threads=1) as peer:
        for turn in range(-1, ROUNDS):  # the first one warms up
            mine = session(served.url, served.process.pid, str(turn))
            other = session(peer.url, peer.pid, str(turn)) if isinstance(peer, Peer) else None
            if turn >= 0:
                ours.append(mine)
                theirs += [other] if other is not None else []
    told = f"mlxd warm {Spread.of(w for w, _ in ours)} ms, cold {Spread.of(c for _, c in ours)} ms"
    shares = [warm / cold for warm, cold in ours]
    if not theirs:
        yield report("warm turn / cold turn, CPU", shares, "x", told)
        yield Figure("the same of mlx_lm.server", not_run=str(peer))
        return
    told += f"; mlx_lm.server warm {Spread.of(w for w, _ in theirs)} ms, cold {Spread.of(c for _, c in theirs)} ms"
    told += f"; warm / cold {Spread.of(shares)} and {Spread.of(w / c for w, c in theirs)}"
    ratios = [share / (warm / cold) for share, (warm, cold) in zip(shares, theirs, strict=True)]
    yield at_most("warm / cold CPU vs mlx_lm.server", ratios, 1.0, told)


def session(url: str, pid: int, seed: str) -> tuple[float, float]:
    """(CPU milliseconds of a warm turn, of a cold one), each the mean of `TURNS`."""
    history = opening(seed)
    spent_ms(url, pid, history)
    warm_ms, cold_ms = 0.0, 0.0
    for turn in range(TURNS):
        history = [*history, {"role": "assistant", "content": ANSWER}, spoken("user", f"{seed} {turn}", TURN_WORDS)]
        warm_ms += spent_ms(url, pid, history)
        cold_ms += spent_ms(url, pid, [*opening(f"{seed} cold {turn}"), *history[2:]])
    return warm_ms / TURNS, cold_ms / TURNS


def opening(seed: str) -> list[Message]:
    return [spoken("system", seed, FIRST_WORDS), spoken("user", f"{seed} first", TURN_WORDS)]


def spoken(role: str, seed: str, count: int) -> Message:
    """A message of so many words, others for each seed."""
    return {"role": role, "content": words(count, seed=crc32(seed.encode()))}


def spent_ms(url: str, pid: int, messages: list[Message]) -> float:
    before_s = family_cpu_s(pid)
    body: dict[str, Any] = {
        "messages": messages,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    (reply,) = asyncio.run(ask(url, body))
    assert reply.completion_tokens == ANSWER_TOKENS, "an answer ended early"
    return (family_cpu_s(pid) - before_s) * 1e3


def family_cpu_s(pid: int) -> float:
    """The server and the processes it keeps: mlxd prepares large bodies in one."""
    children = psutil.Process(pid).children(recursive=True)
    return machine.cpu_s(pid) + sum(machine.cpu_s(child.pid) for child in children)

"""`python -m tests.benchmarks [NAME...]`: each benchmark in a process of its own, with a limit on its time."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time

from tests.benchmarks import machine, rapid_mlx
from tests.benchmarks.figure import Figure

BENCHMARKS = (
    "one_stream",
    "eight_streams",
    "long_prompt_joins",
    "large_bodies",
    "start",
    "thousand_streams",
    "disconnects",
    "cancel_latency",
    "assembly",
    "constrained",
    "reading",
    "probe_peers",
    "restart",
    "traffic",
    "warm_cpu",
    "prepare",
    "store",
    "eviction",
    "ledger",
    "ssd",
    "warm_load",
)
LIMIT_S = 180
LIMITS_S = {"probe_peers": 3600, "restart": 1800, "ssd": 1800, "traffic": 3600, "warm_cpu": 900, "warm_load": 3600}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--here", action="store_true", help="run in this process, without a limit")
    peers = f"install rapid-mlx into {rapid_mlx.home()} first (6 GB)"
    parser.add_argument("--install-peers", action="store_true", help=peers)
    asked = parser.parse_args()
    names = asked.names or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if asked.install_peers:
        rapid_mlx.install()
    if asked.here:
        for name in names:
            run_here(name)
        return 0
    print(machine.describe(), flush=True)
    return max(run_apart(name) for name in names)


def run_here(name: str) -> None:
    for figure in importlib.import_module(f"tests.benchmarks.{name}").run():
        print(figure, flush=True)


def run_apart(name: str) -> int:
    """The exit code: 0, or 1 when the benchmark broke or ran out of time."""
    began_s, load = time.monotonic(), os.getloadavg()[0]
    command = [sys.executable, "-m", "tests.benchmarks", "--here", name]
    process = subprocess.Popen(command, start_new_session=True)  # a group of its own, to end it whole
    try:
        code = process.wait(limit_s := LIMITS_S.get(name, LIMIT_S))
    except subprocess.TimeoutExpired:
        code = -1
        print(Figure(name, not_run=f"stopped after {limit_s} s"), flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code > 0:
        print(Figure(name, not_run="it broke (above)"), flush=True)
    print(f"# {name}: {time.monotonic() - began_s:.0f} s, load {load:.2f} before", flush=True)
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())

"""The watchers of last resort, provoked for real."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

from mlxd.vitals import Vitals


async def test_a_turning_loop_is_left_alone() -> None:
    reasons: list[str] = []
    vitals = Vitals(asyncio.get_running_loop(), reasons.append, lag_warn_s=5, lag_deadly_s=10, period_s=0.02)
    vitals.start()
    await asyncio.sleep(0.4)
    await asyncio.to_thread(vitals.stop)
    assert reasons == []
    assert vitals.lag_s < 5


async def test_a_blocked_loop_is_reported_while_it_is_blocked() -> None:
    dead = threading.Event()

    def on_dead(reason: str) -> None:
        assert reason == "event_loop_blocked"
        dead.set()

    vitals = Vitals(asyncio.get_running_loop(), on_dead, lag_warn_s=0.05, lag_deadly_s=0.3, period_s=0.02)
    vitals.start()
    await asyncio.sleep(0.1)
    assert dead.wait(60), "a coroutine that blocks its loop: it must be seen during the block"
    await asyncio.to_thread(vitals.stop)


def test_a_native_call_that_keeps_the_interpreter_lock_ends_the_process() -> None:
    """`PyDLL` calls keep the lock, so no Python thread can run; only faulthandler's C thread can end this."""
    code = """
import asyncio, ctypes, sys, time
from mlxd.vitals import Vitals
async def main():
    Vitals(asyncio.get_running_loop(), print, stacks=sys.stderr, period_s=0.05, interpreter_deadly_s=1).start()
    await asyncio.sleep(0.5)
    ctypes.PyDLL(None).sleep(170)
asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=160)
    assert run.returncode == 1
    assert "most recent call first" in run.stderr

"""Two watchers that work when the thing they watch does not: the event loop's lag, and the interpreter itself.

The scheduler watches its own worker. What remains is a loop that no longer turns (a blocking call in a coroutine) and a
native call that never gives the interpreter lock back, in which no Python thread runs at all. The second is caught by
faulthandler's timer, a C thread that needs no interpreter lock: it is re-armed every second and, when nobody
does, writes
every stack and ends the process, so that the service manager starts a new one.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TextIO

import structlog

LAG_WARN_S = 1.0
LAG_DEADLY_S = 30.0
INTERPRETER_DEADLY_S = 120.0
PERIOD_S = 1.0

log = structlog.get_logger(__name__)


class Vitals:
    """Watches one event loop from a thread of its own. `on_dead` is called once, from that thread, with the reason."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_dead: Callable[[str], None],
        *,
        stacks: TextIO | None = None,
        lag_warn_s: float = LAG_WARN_S,
        lag_deadly_s: float = LAG_DEADLY_S,
        interpreter_deadly_s: float = INTERPRETER_DEADLY_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self.lag_s = 0.0
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._on_dead = on_dead
        self._stacks = stacks
        self._warn_s = lag_warn_s
        self._deadly_s = lag_deadly_s
        self._interpreter_s = interpreter_deadly_s
        self._period_s = period_s
        self._stopped = threading.Event()
        self._turned = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mlxd-vitals", daemon=True)

    def start(self) -> None:
        """Call on the loop's own thread."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        faulthandler.cancel_dump_traceback_later()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(2 * self._period_s + 1)

    def _watch(self) -> None:
        while not self._stopped.wait(self._period_s):
            if self._stacks is not None:
                faulthandler.dump_traceback_later(self._interpreter_s, exit=True, file=self._stacks)
            if not self._loop_turns():
                return

    def _loop_turns(self) -> bool:
        """Waits until the loop has run one callback; False when it never did or is gone."""
        self._turned.clear()
        asked_s = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._turned.set)
        except RuntimeError:  # the loop is closed: the process is ending
            return False
        warned = False
        while not self._turned.wait(self._warn_s):
            if self._stopped.is_set():
                return False
            self.lag_s = time.monotonic() - asked_s
            if not warned:
                log.warning("event_loop_blocked", lag_s=round(self.lag_s, 1), stack=self._loop_stack())
                warned = True
            if self.lag_s > self._deadly_s:
                self._on_dead("event_loop_blocked")
                return False
        self.lag_s = time.monotonic() - asked_s
        return True

    def _loop_stack(self) -> str:
        """Where the loop's thread is: file names and lines only, never values."""
        frame = sys._current_frames().get(self._loop_thread)
        frames = traceback.extract_stack(frame)[-6:] if frame else []
        return " < ".join(f"{entry.name}:{entry.lineno}" for entry in reversed(frames))

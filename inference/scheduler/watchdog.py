"""A second thread that watches the worker and keeps the times the worker cannot keep while it is in a native call.

It needs the GIL only for moments, so it works while the worker is blocked in a call that has released it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from inference.ports import Clock
from inference.scheduler.pulse import Pulse, Stall

log = logging.getLogger(__name__)


class Watchdog:
    """Every `tick_s`: does its `duties`, and calls `on_stall` once if the pulse was silent for too long while awake."""

    def __init__(
        self,
        pulse: Pulse,
        clock: Clock,
        tick_s: float,
        duties: Sequence[Callable[[], None]],
        on_stall: Callable[[], None],
    ) -> None:
        self._pulse = pulse
        self._clock = clock
        self._tick_s = tick_s
        self._duties = duties
        self._on_stall = on_stall
        self._stall = Stall(clock())
        self._stalled = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlxd-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, unless it is the one that calls."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def look(self) -> None:
        """One tick."""
        for duty in self._duties:
            duty()
        if not self._stalled and self._stall.observe(self._pulse, self._clock()):
            self._stalled = True
            self._on_stall()

    def _run(self) -> None:
        while not self._stop.wait(self._tick_s):
            try:
                self.look()
            except Exception as error:
                log.error("watchdog: %s", type(error).__name__)

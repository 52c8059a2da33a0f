"""How the worker shows that it lives, and how long its silence may last. Written by one thread, read by another."""

from __future__ import annotations

from inference.ports import Clock


class Pulse:
    """`beats` counts progress: a step with output, a load that ended, a look around while idle.

    `allowance_s` is how long what the worker is `doing` may take; `awake_s` counts, by the watchdog's clock, seconds
    in which this process really ran, so that a stopped process or a sleeping machine slows nothing down.
    """

    def __init__(self, clock: Clock, allowance_s: float) -> None:
        self._clock = clock
        self.beats = 0
        self.at_s = clock()
        self.doing = "start"
        self.allowance_s = allowance_s
        self.awake_s = 0.0

    def begin(self, doing: str, allowance_s: float) -> None:
        self.doing, self.allowance_s = doing, allowance_s

    def beat(self) -> None:
        self.beats += 1
        self.at_s = self._clock()


class Stall:
    """Decides whether a pulse has been silent for too long while awake. Sans-I/O: it is told the time."""

    def __init__(self, now_s: float, gap_s: float = 1.0) -> None:
        self._last_s = now_s
        self._gap_s = gap_s
        self._beats = -1
        self._silent_s = 0.0

    def observe(self, pulse: Pulse, now_s: float) -> bool:
        """To be called several times a second; of a longer gap between calls only `gap_s` counts as time awake."""
        awake_s = min(max(0.0, now_s - self._last_s), self._gap_s)
        self._last_s = now_s
        pulse.awake_s += awake_s
        if pulse.beats != self._beats:
            self._beats, self._silent_s = pulse.beats, 0.0
            return False
        self._silent_s += awake_s
        return self._silent_s > pulse.allowance_s

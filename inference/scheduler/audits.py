"""Idle moments, spent on computing warm requests once more from nothing. On the worker thread only.

An audit begins when nothing has happened for a second and goes on by one short step in each turn of the worker, so that
whatever arrives is seen behind that step. A request that is to be started ends it at once; a question does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from inference.ports import ModelLoader
from inference.prefix_store import AuditResult
from inference.scheduler.pulse import Pulse
from inference.scheduler.residents import Resident, Residents
from inference.scheduler.settings import SchedulerSettings

log = logging.getLogger(__name__)

Told = Callable[[AuditResult], None]


class Audits:
    """`told` hears of each audit that has ended."""

    def __init__(
        self, loader: ModelLoader, residents: Residents, settings: SchedulerSettings, pulse: Pulse, told: Told | None
    ) -> None:
        self._loader = loader
        self._residents = residents
        self._settings = settings
        self._pulse = pulse
        self._told = told
        self._on: Resident | None = None

    @property
    def resident(self) -> Resident | None:
        """Whose store is looked at now."""
        on = self._on
        return on if on is not None and self._residents.get(on.ref.id) is on else None

    def begin(self) -> None:
        """Nothing has happened for a while."""
        if self.resident is None:
            self._on = next((resident for resident in self._residents.all() if _waits(resident)), None)

    def step(self) -> bool:
        """A step of an audit; False: there is none. Raises `EngineFatal`."""
        resident = self.resident
        if resident is None or (auditor := resident.runner.auditor) is None:
            return False
        self._pulse.begin(f"audit {resident.ref.id}", max(self._settings.watchdog_s, 10 * resident.slowest_s))
        result = auditor.step(self._room_bytes())
        self._pulse.beat()
        if result is not None:
            self._tell(result)
        if not auditor.waits:
            self._on = None
        return True

    def abandon(self) -> None:
        """Something else needs the device."""
        resident, self._on = self.resident, None
        if resident is not None and (auditor := resident.runner.auditor) is not None:
            auditor.abandon()

    def _room_bytes(self) -> int | None:
        memory = self._loader.memory()
        return None if memory.limit_bytes <= 0 else memory.limit_bytes - memory.active_bytes

    def _tell(self, result: AuditResult) -> None:
        try:
            if self._told is not None:
                self._told(result)
        except Exception as error:
            log.error("an audit could not be written down: %s", type(error).__name__)


def _waits(resident: Resident) -> bool:
    auditor = resident.runner.auditor
    return auditor is not None and auditor.waits

"""Models in whose loading the process died: after three times in ten minutes nobody loads one but an admin.

A model that does not fit may have the system kill mlxd, whose service manager starts it again, which loads the model
again. What is loading stands in a file, so that the next process knows what the last one died of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from inference.ports import DeviceMemory, ModelLoader, ModelRef, ModelRunner
from inference.prefix_store import PrefixStore
from inference.scheduler import HeldBack, Scheduler
from mlxd.paths import read_private, write_private
from mlxd.seals import Seals
from mlxd.start_errors import StartError

DEATHS: Final = 3
WINDOW_S: Final = 600.0
MAX_CHARS: Final = 1 << 16

log = structlog.get_logger(__name__)


class LoadDeaths:
    """What earlier processes of a state directory died of. `note` is for the thread that loads."""

    def __init__(self, path: Path, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        died_in, self._deaths = _read(path)
        now_s = wall_s()
        if died_in:
            self._deaths.setdefault(died_in, []).append(now_s)
        recent = {
            name: [at_s for at_s in times if now_s - WINDOW_S <= at_s <= now_s] for name, times in self._deaths.items()
        }
        self._deaths = {name: times for name, times in recent.items() if times}
        if died_in:
            log.error("died_while_loading", model=died_in, times=len(self._deaths.get(died_in, ())))
            self.note("")

    @property
    def held_back(self) -> frozenset[str]:
        """Models that are not to be loaded unasked."""
        return frozenset(name for name, times in self._deaths.items() if len(times) >= DEATHS)

    def note(self, model_id: str) -> None:
        """A model is about to be loaded; "" when that is over, however it went."""
        try:
            write_private(self._path, json.dumps({"loading": model_id, "deaths": self._deaths}))
        except StartError as error:  # a full disk keeps no model out
            log.warning("load_not_noted", reason=error.message)


def _read(path: Path) -> tuple[str, dict[str, list[float]]]:
    """What was loading when it was written last, and when loads killed a process (Unix seconds)."""
    try:
        found = json.loads(read_private(path, MAX_CHARS) or "{}")
        loading, deaths = found.get("loading", ""), found.get("deaths", {})
        return str(loading), {str(name): list(_times(times)) for name, times in deaths.items()}
    except (StartError, ValueError, AttributeError, TypeError):
        return "", {}


def _times(found: Iterable[Any]) -> Iterable[float]:
    return (float(at_s) for at_s in found)


class NotedLoader:
    """A `ModelLoader` that says what it is about to load, and loads only what was there when it was first read."""

    def __init__(self, loader: ModelLoader, deaths: LoadDeaths, seals: Seals) -> None:
        self._loader = loader
        self._deaths = deaths
        self._seals = seals

    @property
    def store(self) -> PrefixStore | None:
        return self._loader.store

    def load(self, model: ModelRef) -> ModelRunner:
        """What is no `Exception` ends the thread and with it the process, so the model stays noted."""
        self._seals.check(model.path)
        self._deaths.note(model.id)
        try:
            runner = self._loader.load(model)
        except Exception:
            self._deaths.note("")
            self._seals.forget(model.path)  # it may be repaired
            raise
        self._deaths.note("")
        return runner

    def memory(self) -> DeviceMemory:
        return self._loader.memory()

    def release_unused(self) -> None:
        self._loader.release_unused()


def hold_back(scheduler: Scheduler, models: Iterable[ModelRef], deaths: LoadDeaths) -> None:
    """Has no request load what killed earlier processes."""
    for model in models:
        if model.id in deaths.held_back:
            often = f"mlxd died {DEATHS} times within {WINDOW_S / 60:g} minutes of loading {model.id}"
            scheduler.bar(model, HeldBack(f"{often}; only an admin's order loads it now."))

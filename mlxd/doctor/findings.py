"""What a check sees and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mlxd.config import Config
from mlxd.paths import StateDir


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `cure` is what to do about it, "" when nothing is wrong."""

    name: str
    status: Status
    what: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the checks look at besides the machine itself. `warnings` are those of reading the settings."""

    config: Config
    state: StateDir
    environ: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def ok(name: str, what: str) -> Finding:
    return Finding(name, Status.OK, what)


def warn(name: str, what: str, cure: str) -> Finding:
    return Finding(name, Status.WARN, what, cure)


def fail(name: str, what: str, cure: str) -> Finding:
    return Finding(name, Status.FAIL, what, cure)

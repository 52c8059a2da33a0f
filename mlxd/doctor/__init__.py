"""Checks of this machine: each a small function that looks at one thing and says what to do about it."""

from __future__ import annotations

from mlxd.doctor.findings import Finding, Scene, Status
from mlxd.doctor.rounds import CHECKS, examine

__all__ = ["CHECKS", "Finding", "Scene", "Status", "examine"]

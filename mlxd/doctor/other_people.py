"""Who else has an account on this machine: on loopback without keys all of them can use the models."""

from __future__ import annotations

from mlxd.config.people import count_people
from mlxd.doctor.findings import Finding, Scene, ok, warn


def who_can_use_it(scene: Scene) -> Finding:
    """One person, or a key for each."""
    if scene.config.require_key:
        return ok("other people", "a key is required")
    count = count_people()
    if count <= 1:
        return ok("other people", "nobody else has an account here")
    if scene.config.require_key is None:
        return ok("other people", f"{count} people have accounts here, so a key is required: mlxd keys add NAME")
    return warn(
        "other people",
        f"{count} people have accounts on this machine; without keys each of them can use the models.",
        "Start without --no-require-key, and make a key for each: mlxd keys add NAME. See docs/security.md.",
    )

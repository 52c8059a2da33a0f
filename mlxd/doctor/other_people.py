"""Who else has an account on this machine: on loopback without keys all of them can use the models."""

from __future__ import annotations

import pwd
import sys
from typing import Final

from mlxd.doctor.findings import Finding, Scene, ok, warn

FIRST_UID: Final = 501 if sys.platform == "darwin" else 1000
LAST_UID: Final = 60_000
NO_SHELLS: Final = ("nologin", "false", "sync")


def who_can_use_it(scene: Scene) -> Finding:
    """One person, or a key for each."""
    if scene.config.require_key:
        return ok("other people", "a key is required")
    count = sum(map(is_person, pwd.getpwall()))
    if count <= 1:
        return ok("other people", "nobody else has an account here")
    return warn(
        "other people",
        f"{count} people have accounts on this machine; without keys each of them can use the models.",
        "Start with --require-key, and make a key for each: mlxd keys add NAME. See docs/security.md.",
    )


def is_person(account: pwd.struct_passwd) -> bool:
    """Whether somebody can log in with an account."""
    shell = account.pw_shell.rpartition("/")[2]
    return FIRST_UID <= account.pw_uid <= LAST_UID and shell not in NO_SHELLS

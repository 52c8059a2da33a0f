"""How many people have an account on this machine: on loopback without keys, all of them can use the models."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Final

from mlxd.config.knobs import Config

USERS: Final = Path("/Users")
FIRST_MAC_UID: Final = 501
LINUX_UIDS: Final = range(1000, 60_000)
NO_SHELLS: Final = ("nologin", "false", "sync")


def kept_from_others(config: Config) -> int:
    """How many people have accounts where a key is required for that reason. 0: somebody said whether one is, or there
    is one person. Blocks."""
    if config.require_key is not None:
        return 0
    people = count_people()
    return people if people > 1 else 0


def count_people(platform: str = sys.platform) -> int:
    """Blocks: on a Mac it reads a folder, elsewhere the accounts. What cannot be read is nobody."""
    return owners_of_homes(USERS) if platform == "darwin" else sum(map(is_person, pwd.getpwall()))


def owners_of_homes(users: Path) -> int:
    """The people whose homes are in a folder; macOS lists accounts of services by the dozen, but their homes are not
    there."""
    try:
        homes = [one.stat(follow_symlinks=False) for one in os.scandir(users) if one.is_dir(follow_symlinks=False)]
    except OSError:
        return 0
    return len({home.st_uid for home in homes if home.st_uid >= FIRST_MAC_UID})


def is_person(account: pwd.struct_passwd) -> bool:
    """Whether somebody can log in with an account, and has a home."""
    shell = account.pw_shell.rpartition("/")[2]
    return account.pw_uid in LINUX_UIDS and shell not in NO_SHELLS and os.path.isdir(account.pw_dir)  # noqa: PTH112

"""Keeps a directory out of backups and of what a search indexes: prompts and what was computed of them lie in it.

On macOS Time Machine leaves out what bears its mark, and Spotlight what has a file of a certain name in it; tar, restic
and borg leave out what has a CACHEDIR.TAG, if they are told to. Nothing of it is needed to serve, so nothing fails.
"""

from __future__ import annotations

import ctypes
import os
import plistlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

NOT_INDEXED: Final = ".metadata_never_index"
TAG: Final = "CACHEDIR.TAG"
TAG_TEXT: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Made by mlxd. It may be removed with all it stands beside.\n"
)
MARK: Final = "com.apple.metadata:com_apple_backup_excludeItem"
MARKED: Final = plistlib.dumps("com.apple.backupd", fmt=plistlib.FMT_BINARY)
"""As `tmutil addexclusion` writes it: it stays with the directory when that is moved."""

type SetMark = Callable[[Path, str, bytes], None]


def keep_out_of_backups(root: Path, set_mark: SetMark | None = None) -> None:
    """Marks a directory. `set_mark` sets an attribute of a path; None: the system's own, where it is macOS."""
    _touch(root / NOT_INDEXED, "")
    chosen = set_mark or (_set_attribute if sys.platform == "darwin" else None)
    if chosen is not None:
        with suppress(OSError, AttributeError):
            chosen(root, MARK, MARKED)


def tag_as_cache(folder: Path) -> None:
    """Marks a directory as one whose files can be made again. It is made, if it is not there."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    _touch(folder / TAG, TAG_TEXT)


def _touch(path: Path, text: str) -> None:
    """Leaves one alone that is there, whatever it is."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)


def _set_attribute(path: Path, name: str, value: bytes) -> None:
    """Python has no call for it on macOS. Raises `OSError`."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setxattr(os.fsencode(path), name.encode(), value, ctypes.c_size_t(len(value)), ctypes.c_uint32(0), 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

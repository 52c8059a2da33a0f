"""A row's body as it lies on the disk: a version, a seal over all of it, and what it holds.

The seal is made with the key of the row, so a body that a fault put under another key is as unreadable as a damaged
one. It guards against accidents; who can write the file can write seals too.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

SEAL_BYTES = 16


class Unreadable(StrEnum):
    """Why a body says nothing: another version of mlxd wrote it, or it is not what was written."""

    UNKNOWN_VERSION = "unknown_version"
    DAMAGED = "damaged"


def sealed(version: int, key: bytes, content: bytes) -> bytes:
    """`version` (1 to 255) is that of what `content` means; `key` is the row's own, of at most 64 bytes."""
    head = bytes([version])
    return head + _seal(key, head + content) + content


def opened(version: int, key: bytes, body: bytes) -> bytes | Unreadable:
    """The content of a body that was sealed with the same version and key."""
    if body[:1] != bytes([version]):
        return Unreadable.UNKNOWN_VERSION if body else Unreadable.DAMAGED
    content = body[1 + SEAL_BYTES :]
    return content if _seal(key, body[:1] + content) == body[1 : 1 + SEAL_BYTES] else Unreadable.DAMAGED


def _seal(key: bytes, content: bytes) -> bytes:
    return blake2b(content, key=key, digest_size=SEAL_BYTES).digest()

"""Blocks of 256 tokens on an absolute grid: how their ids are packed, compared and hashed.

Ids are packed into four bytes each. Packed ids are what the tree compares: one `bytes` of 1 KiB per block instead of
256 Python integers (9 KiB), compared by one `memcmp`. Hashes name blocks across processes; they never decide alone that
two blocks are equal.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

BLOCK_TOKENS: Final = 256
ID_BYTES: Final = 4
BLOCK_BYTES: Final = BLOCK_TOKENS * ID_BYTES


class BlockPart(Protocol):
    """The KV of some tokens of a block in memory of its own. Known by identity: several blocks may hold one."""

    @property
    def tokens(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Device bytes."""


class BlockHandle(Protocol):
    """The engine's KV of one block, all attention layers; immutable, may be read by many rows at once."""

    @property
    def tokens(self) -> int:
        """1 to 256, counted from a grid line."""

    @property
    def nbytes(self) -> int:
        """Device bytes of all its parts."""

    @property
    def parts(self) -> Sequence[BlockPart]:
        """What it is made of, in order."""

    def parted(self, tokens: int) -> Self:
        """The same with a part that ends behind the first `tokens`: itself where one does, else two in one's place."""

    def sharing(self, other: Self, tokens: int) -> Self:
        """The same, but its first `tokens` are held by the parts of `other`, of which one must end there."""


class SnapshotHandle(Protocol):
    """The engine's recurrent state after `depth` tokens; immutable."""

    @property
    def depth(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


def pack(ids: Sequence[int]) -> bytes:
    """Ids as the tree keeps them. Raises `OverflowError` for an id below 0 or above 2**32 - 1."""
    return array("I", ids).tobytes()


def unpack(packed: bytes) -> tuple[int, ...]:
    return tuple(array("I", packed))


def token_slice(packed: bytes, start: int, stop: int) -> bytes:
    return packed[start * ID_BYTES : stop * ID_BYTES]


def token_count(packed: bytes) -> int:
    return len(packed) // ID_BYTES


def common_tokens(one: bytes, other: bytes) -> int:
    """Tokens that two packed runs share from their beginning.

    The lowest bit in which they differ, read as numbers, lies in the first token that differs: no loop in Python.
    """
    length = min(len(one), len(other))
    difference = int.from_bytes(one[:length], "little") ^ int.from_bytes(other[:length], "little")
    if not difference:
        return length // ID_BYTES
    return ((difference & -difference).bit_length() - 1) // (8 * ID_BYTES)


def root_key(fingerprint: str, salt: bytes = b"") -> bytes:
    """Where a chain begins: KV of another model, of other KV settings or under another salt is never found."""
    return hashlib.sha256(b"mlxd prefix root\0" + _framed(fingerprint.encode()) + _framed(salt)).digest()


def chain_hash(parent: bytes, packed: bytes, extra: bytes = b"") -> bytes:
    """Names a block by everything before it. `extra` tells blocks apart whose ids alone do not (image content)."""
    return hashlib.sha256(_framed(parent) + _framed(packed) + _framed(extra)).digest()


def _framed(part: bytes) -> bytes:
    """Length first, so that no two lists of parts read the same."""
    return len(part).to_bytes(8, "little") + part


@dataclass(frozen=True, slots=True)
class Root:
    """What KV depends on besides the ids. Two requests share blocks only below equal `key`s.

    `weights` is the engine's fingerprint of model files and format, `settings` of how KV is kept, `salt` parts the
    clients that must not share. `template` is not part of the key (the ids say it all); with it a miss can be told
    apart from a change of words. `token_cost` is what one token costs to compute, relative to other models.
    """

    model: str
    weights: str
    settings: str = ""
    salt: bytes = field(default=b"", repr=False, compare=False)
    template: str = ""
    token_cost: float = 1.0
    key: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", root_key(f"{self.weights}\0{self.settings}", self.salt))

    @classmethod
    def known_by(cls, key: bytes, model: str, weights: str, settings: str, template: str, token_cost: float) -> Self:
        """One that was written down, which no salt ever is: it has the key and no salt."""
        root = cls(model, weights, settings, template=template, token_cost=token_cost)
        object.__setattr__(root, "key", key)
        return root

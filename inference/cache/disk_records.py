"""What is written to the disk and what comes back: the label of a file, and the port to whoever knows its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from inference.cache.blocks import BLOCK_BYTES, BlockHandle, Root, SnapshotHandle, chain_hash, token_count
from inference.cache.node import Node, Snapshot

KEY_BYTES: Final = 16
"""Of a chain hash, in file names and in the index; the whole hash stands in the file and is compared there."""
_STATE: Final = b"recurrent state"
Handle = BlockHandle | SnapshotHandle


class Kind(StrEnum):
    """What a file holds; also the ending of its name."""

    BLOCK = "kv"
    STATE = "state"


class Flaw(StrEnum):
    """Why a file is not used. It is then removed."""

    CORRUPT = "corrupt"
    """Not the bytes that were written."""
    STALE = "stale"
    """Of another version of the format."""
    FOREIGN = "foreign"
    """Of another model, other settings, or other tokens than its name says."""


@dataclass(frozen=True, slots=True)
class BlockLabel:
    """What a file says of itself. Hashes are whole chain hashes, `ids` packed tokens from depth `start` to `end`.

    A recurrent state stands behind the block `parent` and the tokens `ids`, which may be none. `root` is the key of the
    tree; model, weights and settings are in it and are written for people.
    """

    kind: Kind
    root: bytes
    parent: bytes
    own: bytes
    ids: bytes = field(repr=False)
    start: int
    end: int
    exact: bool
    model: str = ""
    weights: str = ""
    settings: str = ""

    @property
    def key(self) -> bytes:
        return self.own[:KEY_BYTES]

    @property
    def is_sound(self) -> bool:
        """Whether it is named by what it is: the name follows from the parent and the ids, depths from their number."""
        own = block_name(self.parent, self.ids) if self.kind is Kind.BLOCK else state_name(self.parent, self.ids)
        begins_right = (self.parent == self.root) == (self.start == 0)
        fits = len(self.ids) <= BLOCK_BYTES and (bool(self.ids) or self.kind is Kind.STATE)
        return own == self.own and self.end - self.start == token_count(self.ids) and begins_right and fits


def block_name(parent: bytes, ids: bytes) -> bytes:
    """The chain hash by which a block is found."""
    return chain_hash(parent, ids)


def state_name(parent: bytes, ids: bytes) -> bytes:
    """The name of a recurrent state; never that of a block."""
    return chain_hash(parent, ids, _STATE)


def label_of(node: Node) -> BlockLabel:
    """The label of a block in the tree."""
    assert node.parent is not None
    return _labelled(Kind.BLOCK, node.root, node.parent.digest, node.digest, node.ids, node.start, node.exact)


def state_label_of(held: Snapshot) -> BlockLabel:
    node = held.node
    own = state_name(node.digest, held.suffix)
    return _labelled(Kind.STATE, node.root, node.digest, own, held.suffix, node.end, held.exact)


def _labelled(kind: Kind, root: Root, parent: bytes, own: bytes, ids: bytes, start: int, exact: bool) -> BlockLabel:
    end = start + token_count(ids)
    return BlockLabel(kind, root.key, parent, own, ids, start, end, exact, root.model, root.weights, root.settings)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file's content: its label, and the arrays, evaluated."""

    label: BlockLabel
    handle: Handle = field(repr=False)


class BlockCodec(Protocol):
    """Blocks and states as bytes. Used on the thread that does the disk's work; never raises for what a file holds."""

    def encode(self, label: BlockLabel, handle: Handle) -> Sequence[bytes | memoryview]:
        """The file, in pieces. The arrays must be evaluated."""

    def decode(self, raw: bytes) -> Stored | Flaw:
        """A whole file, every byte of it checked against its digest."""

    def read_label(self, beginning: bytes) -> BlockLabel | Flaw:
        """The label alone, from a file's first `LABEL_BYTES`; nothing is checked but that it can be read."""


LABEL_BYTES: Final = 64 * 1024
"""A label is about 4 KiB. Tensors of a block are named in it too, about 80 bytes for each stack."""

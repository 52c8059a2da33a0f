"""What is asked of the cache, what a lookup finds, and what a request holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from inference.cache.blocks import BlockHandle, Root, SnapshotHandle
from inference.cache.node import Admission, Node, Snapshot
from inference.cache.verdict import Verdict
from inference.events import Parting


class ReuseMode(StrEnum):
    """`token`: to the last common token; equal to a cold run within rounding (about 1e-5 in float32).

    `bitwise`: whole blocks made by prefill on the grid only; on the CPU equal to a cold run in every bit.
    """

    TOKEN = "token"  # noqa: S105 (not a secret)
    BITWISE = "bitwise"


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the cache. `packed` are the prompt's ids."""

    root: Root
    packed: bytes = field(repr=False)
    limit: int
    needs_snapshot: bool
    mode: ReuseMode
    session: str


@dataclass(frozen=True, slots=True)
class Reuse:
    """The first `depth_tokens` of a prompt need not be computed.

    `handles[i]` holds the tokens from 256 i on; all but the last are whole, the last is used up to the depth.
    `snapshot` is there exactly when the model needs one and the depth is not 0; its depth is `depth_tokens`.
    `kv_depth_tokens` is how far blocks match, snapshots and mode aside. `parting` is where the prompt leaves the last
    request of its session. Nothing is locked by it.
    """

    query: Query
    depth_tokens: int
    handles: tuple[BlockHandle, ...] = field(repr=False)
    snapshot: SnapshotHandle | None
    kv_depth_tokens: int
    verdict: Verdict
    version: int
    nodes: tuple[Node, ...] = field(repr=False)
    stored: Snapshot | None = field(repr=False)
    parting: Parting | None = field(default=None, repr=False)

    @property
    def prompt_tokens(self) -> int:
        return self.query.limit + 1


@dataclass(frozen=True, slots=True)
class Foreseen:
    """How deep a prompt would resume, how far blocks match, and why not deeper: memory and disk together."""

    depth_tokens: int
    kv_depth_tokens: int
    verdict: Verdict


@dataclass(slots=True, eq=False)
class Lease:
    """What one running request keeps from being evicted: the path to `tip`, and the snapshot it started from.

    `written` are the blocks it stored itself, and behind how many tokens of each the parts are its own; `kept` are its
    snapshots. `refused`: something of its path found no room,
    and nothing can be stored behind a gap. `is_open` until it is released or discarded.
    """

    request_id: str
    admission: Admission
    reuse: Reuse
    tip: Node
    written: dict[Node, int] = field(default_factory=dict)
    kept: list[Snapshot] = field(default_factory=list)
    refused: bool = False
    is_open: bool = True

    def at(self, depth: int) -> Node:
        """The last block of the leased path that ends at or before a depth."""
        node = self.tip
        while node.end > depth and node.parent is not None:
            node = node.parent
        return node

    def wrote(self, node: Node, shared_tokens: int) -> None:
        """A block is stored; the first `shared_tokens` were there. What it took back from a sibling stays its own."""
        for before, start in reversed(self.written.items()):
            if before.parent is not node.parent:
                break
            shared_tokens = min(shared_tokens, start)
        self.written[node] = shared_tokens

    def move(self, node: Node) -> None:
        """Locks another node instead: leaves only are evicted, so the end of a path holds all of it."""
        node.locks += 1
        self.tip.locks -= 1
        self.tip = node

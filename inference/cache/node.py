"""One block in the prefix tree, and a recurrent state stored at a depth of its path."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from inference.cache.blocks import BLOCK_BYTES, BlockHandle, Root, SnapshotHandle, token_count
from inference.cache.prefix_map import PrefixMap


class Admission(StrEnum):
    """Whose budget a block lives in. One-shots (titles, commit messages, probes) never push out a conversation."""

    MAIN = "main"
    ONE_SHOT = "one_shot"


@dataclass(slots=True, eq=False, repr=False)
class Snapshot:
    """A recurrent state after `handle.depth` tokens of the path it hangs on. `exact` as for blocks.

    `passed`: the path has gone on to a deeper one since. `from_disk` as for blocks.
    """

    handle: SnapshotHandle
    nbytes: int
    exact: bool
    last_used_s: float
    node: Node
    suffix: bytes
    serial: int
    hits: int = 1
    locks: int = 0
    passed: bool = False
    from_disk: bool = False

    @property
    def depth(self) -> int:
        return self.handle.depth


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """A block of 256 tokens, or a leaf of fewer (a tail): the end of a prompt or an answer.

    The root of a tree has no ids and no handle. `end` is the depth in tokens behind the block. `exact` says that its
    KV is bitwise that of a cold prefill: all of its path was computed by prefill on the grid. `tips` names the sessions
    of which a request ended here. `proof` is what its KV was seen to be in an idle moment; `from_disk`: it was read
    there. A snapshot at depth d hangs on the node that ends at the grid line at or before d, under the ids between that
    line and d.
    """

    root: Root
    parent: Node | None
    ids: bytes
    end: int
    digest: bytes
    serial: int
    handle: BlockHandle | None = None
    nbytes: int = 0
    exact: bool = True
    admission: Admission = Admission.MAIN
    last_used_s: float = 0.0
    hits: int = 1
    locks: int = 0
    attached: bool = True
    proof: Hashable = None
    from_disk: bool = False
    tips: set[str] = field(default_factory=set)
    children: PrefixMap[Node] = field(default_factory=PrefixMap)
    snapshots: dict[bytes, Snapshot] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return token_count(self.ids)

    @property
    def start(self) -> int:
        return self.end - self.tokens

    @property
    def is_full(self) -> bool:
        """Whether blocks may follow: a whole block, or the root."""
        return self.parent is None or len(self.ids) == BLOCK_BYTES

    def upwards(self) -> Iterator[Node]:
        """This block and those before it, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def covers(self, suffix: bytes) -> bool:
        """Whether blocks hold the tokens of `suffix` behind this one."""
        return not suffix or self.children.begins_with(suffix)

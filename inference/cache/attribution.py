"""Remembers what left the store and why, so that a later miss of those tokens can name its cause."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from inference.cache.blocks import BLOCK_TOKENS, token_slice
from inference.cache.eviction import Evicted
from inference.cache.node import Node
from inference.cache.prefix_map import PrefixMap
from inference.cache.verdict import Loss

REMEMBERED_BLOCKS = 4096
"""About 6 MiB of packed ids: a million tokens that were there once."""
RECENT = 64


@dataclass(frozen=True, slots=True)
class Absent:
    digest: bytes
    evicted: Evicted


class Attribution:
    """A bounded trie of absent blocks: under the hash of what came before, the ids, compared token by token."""

    def __init__(self, capacity: int = REMEMBERED_BLOCKS) -> None:
        self.recent: deque[Evicted] = deque(maxlen=RECENT)
        self._capacity = capacity
        self._behind: dict[bytes, PrefixMap[Absent]] = {}
        self._order: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def record(self, node: Node, evicted: Evicted) -> None:
        """`node` has just left the tree."""
        assert node.parent is not None
        self.missing(node.parent.digest, node.ids, node.digest, evicted)

    def missing(self, parent: bytes, ids: bytes, digest: bytes, evicted: Evicted) -> None:
        """A block behind the block `parent` is not there any more. Hashes are whole chain hashes."""
        place = (parent, ids)
        self._behind.setdefault(place[0], PrefixMap()).set(place[1], Absent(digest, evicted))
        self._order[place] = None
        self._order.move_to_end(place)
        self.recent.append(evicted)
        while len(self._order) > self._capacity:
            self._forget(next(iter(self._order)))

    def _forget(self, place: tuple[bytes, bytes]) -> None:
        del self._order[place]
        behind = self._behind[place[0]]
        behind.pop(place[1])
        if not behind:
            del self._behind[place[0]]

    def loss(self, digest: bytes, at: int, packed: bytes, warm_tokens: int, limit_tokens: int) -> Loss | None:
        """What of `packed` is absent behind the block `digest`, which ends at depth `at`, the last whole one stored.

        `warm_tokens` of the next block are stored and do not count.
        """
        warm, lost = warm_tokens, 0
        cause: Evicted | None = None
        while (behind := self._behind.get(digest)) is not None:
            found, common = behind.nearest(token_slice(packed, at, min(limit_tokens, at + BLOCK_TOKENS)))
            if found is None or common <= warm:
                break
            cause, lost, warm = cause or found.evicted, lost + common - warm, 0
            if common < BLOCK_TOKENS:
                break
            digest, at = found.digest, at + BLOCK_TOKENS
        return None if cause is None else Loss(cause.reason, lost, cause.by)

"""Which files go together: with what is not true all that was computed from it, with a conversation only its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from inference.cache.blocks import common_tokens
from inference.cache.disk_index import DiskEntry, DiskIndex
from inference.cache.disk_records import KEY_BYTES, BlockLabel, Kind


@dataclass(frozen=True, slots=True)
class Likes:
    """Whatever stands behind `parent` and begins as `ids` do: in memory it had the same beginning."""

    parent: bytes
    ids: bytes = field(repr=False)

    def on_disk(self, index: DiskIndex, ids_of: Callable[[DiskEntry], bytes]) -> list[bytes]:
        """Costs reading a label each."""
        return [entry.key for entry in index.behind(self.parent) if common_tokens(ids_of(entry), self.ids)]

    def among(self, queued: Iterable[BlockLabel]) -> list[bytes]:
        """Of those that wait to be written."""
        behind = [label for label in queued if label.parent[:KEY_BYTES] == self.parent]
        return [label.key for label in behind if common_tokens(label.ids, self.ids)]


def untrue(keys: Iterable[bytes], index: DiskIndex, queued: Collection[BlockLabel]) -> set[bytes]:
    """These and all that stands behind them, on the disk or on its way there (in order: what stands before first)."""
    gone = set(keys)
    gone.update(entry.key for key in tuple(gone) for entry in index.from_here(key))
    for label in queued:
        if label.key in gone or label.parent[:KEY_BYTES] in gone:
            gone.update((label.key, *(entry.key for entry in index.from_here(label.key))))
    return gone


def own(keys: Iterable[bytes], index: DiskIndex, queued: Collection[BlockLabel]) -> set[bytes]:
    """Those of these behind which nobody else has blocks, and the states that stand behind such."""
    wanted = set(keys)
    parents = {label.key: label.parent[:KEY_BYTES] for label in queued}
    shared = {label.parent[:KEY_BYTES] for label in queued if label.key not in wanted and label.kind is Kind.BLOCK}
    spared: set[bytes] = set()
    for key in wanted:
        if key in shared or any(entry.key not in wanted for entry in index.behind(key) if entry.kind is Kind.BLOCK):
            spared.update(_upwards(key, wanted, spared, index, parents))
    gone = wanted - spared
    states = [entry.key for key in gone for entry in index.behind(key) if entry.kind is Kind.STATE]
    return gone.union(states)


def _upwards(
    key: bytes, wanted: set[bytes], spared: set[bytes], index: DiskIndex, parents: dict[bytes, bytes]
) -> Iterator[bytes]:
    """A key and those before it. None twice: names can be anybody's, and may lead in a circle."""
    seen: set[bytes] = set()
    while key in wanted and key not in spared and key not in seen:
        seen.add(key)
        yield key
        entry = index.get(key)
        key = entry.parent if entry is not None else parents.get(key, b"")

"""Which files go together: with what is not true all that was computed from it, with a conversation only its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from inference.cache.disk_index import DiskIndex
from inference.cache.disk_records import KEY_BYTES, BlockLabel, Kind


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

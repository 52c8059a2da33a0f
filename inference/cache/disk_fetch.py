"""What was read from the disk for one job, checked to be a path that continues what is in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from inference.cache.blocks import BLOCK_TOKENS
from inference.cache.disk import DiskStore
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_plan import Plan, Want, plan
from inference.cache.disk_records import Stored, block_name
from inference.cache.recollect import recollect
from inference.cache.recollection import Recollection


@dataclass(frozen=True, slots=True)
class Flawed:
    """A whole block of the prompt that was on the disk and could not be used. Hashes are whole."""

    parent: bytes
    ids: bytes = field(repr=False)
    own: bytes
    start: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """For a job: blocks from the depth of `want`'s path on, in order, and a recurrent state within them, if any. `seen`
    is what the disk knows beside that."""

    job: str
    want: Want
    blocks: tuple[Stored, ...] = ()
    state: Stored | None = None
    flawed: Flawed | None = None
    seen: Recollection | None = None


def fetch(store: DiskStore, job: str, want: Want, read: dict[bytes, Stored] | None = None) -> Fetched:
    """Reads what helps, as far as it is whole, and looks where the prompt leaves its session. Takes as long as the disk
    does.

    `read` is what was read for others just now; it is not read again, and what is read is put there.
    """
    found = _fetch(store, job, want, {} if read is None else read)
    return replace(found, seen=recollect(store, want))


def _fetch(store: DiskStore, job: str, want: Want, read: dict[bytes, Stored]) -> Fetched:
    wanted = plan(store.index, want, store.ids)
    blocks: list[Stored] = []
    parent = want.digests[-1]
    for entry in wanted.blocks:
        stored = _read(store, entry, want, read)
        if stored is None or stored.label.parent != parent:
            return Fetched(job, want, tuple(blocks), flawed=_flawed(want, entry, parent))
        if want.bitwise and not stored.label.exact:
            return Fetched(job, want, tuple(blocks))
        blocks.append(stored)
        parent = stored.label.own
    state = None if wanted.state is None else _read(store, wanted.state, want, read)
    if used := _last(wanted):
        store.mark_used(used.key)
    return Fetched(job, want, tuple(blocks), state)


def _read(store: DiskStore, entry: DiskEntry, want: Want, read: dict[bytes, Stored]) -> Stored | None:
    known = read.get(entry.key)
    if known is not None and known.label.root == want.root:
        store.counters.shared_files += 1
        return known
    stored = store.read(entry.key, want.root)
    if stored is not None:
        read[entry.key] = stored
    return stored


def _last(wanted: Plan) -> DiskEntry | None:
    return wanted.state or (wanted.blocks[-1] if wanted.blocks else None)


def _flawed(want: Want, entry: DiskEntry, parent: bytes) -> Flawed | None:
    """None for a block that the prompt only begins with: what was in it is not known any more."""
    ids = want.ids(entry.start, entry.end)
    own = block_name(parent, ids)
    return Flawed(parent, ids, own, entry.start) if entry.tokens == BLOCK_TOKENS and own.startswith(entry.key) else None

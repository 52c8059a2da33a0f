"""Compares a prompt with what an earlier process left: how far it is there, and where it leaves its own session.

On the disk's thread. Names tell which blocks are equal, so only the block in which a path and the prompt part is looked
into, and of that the label alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from inference.cache.blocks import BLOCK_TOKENS, common_tokens, token_count, token_slice, unpack
from inference.cache.disk import DiskStore
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_plan import COMPARED, Want
from inference.cache.disk_records import KEY_BYTES, Kind, block_name
from inference.cache.parting import SHOWN_TOKENS
from inference.cache.recollection import Past, Recollection
from inference.cache.session_record import SessionRecord
from inference.tokens import TokenIds

_ASIDE: Final = 64
"""Side calls that a prompt is compared with: the last ones. Each leaves up to two keys."""


def recollect(store: DiskStore, want: Want) -> Recollection:
    """What is known of a prompt there, once what it reads has been read."""
    depths = _depths(store, want)
    last, at = list(depths.items())[-1]
    ahead = want.ids(at, at + BLOCK_TOKENS)
    near = [entry for entry in store.index.behind(last) if entry.kind is Kind.BLOCK]
    shares = [(common_tokens(store.ids(entry), ahead), entry.tokens) for entry in near[-COMPARED:] if ahead]
    tokens = max((shared for shared, _ in shares), default=0)
    goes_on = any(shared == tokens < whole for shared, whole in shares) if tokens else bool(near)
    record = store.sessions.last(want.session) if want.session else None
    if record is None:
        return Recollection(at + tokens, not goes_on)
    ends_here = not tokens and last in _ends(store, record)
    return Recollection(at + tokens, not goes_on, ends_here, _past(store, want, record, depths))


def _depths(store: DiskStore, want: Want) -> Mapping[bytes, int]:
    """The keys of the prompt's whole blocks that are in memory or on the disk, its root's first, and their ends."""
    digests = list(want.digests)
    at = (len(digests) - 1) * BLOCK_TOKENS
    while at + BLOCK_TOKENS <= want.limit:
        own = block_name(digests[-1], want.ids(at, at + BLOCK_TOKENS))
        if own[:KEY_BYTES] not in store.index:
            break
        digests.append(own)
        at += BLOCK_TOKENS
    return {digest[:KEY_BYTES]: number * BLOCK_TOKENS for number, digest in enumerate(digests)}


def _ends(store: DiskStore, record: SessionRecord) -> set[bytes]:
    """Blocks at which a session's requests ended in earlier processes: the last of each."""
    ends: set[bytes] = set()
    for key in store.sessions.left_by_earlier(record):
        if (entry := store.index.get(key)) is not None:
            ends.discard(entry.parent)  # it is written down just before what ends behind it
            ends.add(key)
    return ends


def _past(store: DiskStore, want: Want, record: SessionRecord, depths: Mapping[bytes, int]) -> Past:
    unsure = record.unsure and not record.earlier
    if record.tree != want.root:
        return Past(record.root, unsure)
    sure = record.earlier if record.unsure and record.earlier else record.keys
    last = next((key for key in reversed(sure) if key in store.index), None)
    reached = last is not None and (last in depths or _is_read(store, want, last, depths))
    ways = [way for key in _known(record) if (way := _way(store, key, depths)) is not None]
    furthest = max((at for at, _ in ways), default=0)
    found = [_parted(store, want, *way) for way in ways if way[0] == furthest]
    shared, stored = max(found, default=(0, ()))
    return Past(record.root, unsure, reached, shared, stored)


def _known(record: SessionRecord) -> Iterable[bytes]:
    return dict.fromkeys((*record.keys, *record.aside[-_ASIDE:]))


def _is_read(store: DiskStore, want: Want, key: bytes, depths: Mapping[bytes, int]) -> bool:
    """Whether all of a block that is not whole is in the prompt."""
    entry = store.index.get(key)
    if entry is None or entry.parent not in depths:
        return False
    return common_tokens(store.ids(entry), want.ids(entry.start, entry.end)) == entry.tokens


def _way(store: DiskStore, end: bytes, depths: Mapping[bytes, int]) -> tuple[int, list[DiskEntry]] | None:
    """How deep a path that ends at a block goes with the prompt's whole blocks, and its blocks behind those. None where
    some of it is gone."""
    if end in depths:
        return depths[end], []
    behind: list[DiskEntry] = []
    for entry in store.index.upwards(end):
        behind.append(entry)
        if entry.parent in depths:
            return depths[entry.parent], behind[::-1]
    return None


def _parted(store: DiskStore, want: Want, at: int, behind: list[DiskEntry]) -> tuple[int, TokenIds]:
    """The first token in which a path and the prompt differ, and what the path has from there on."""
    ids = store.ids(behind[0]) if behind else b""
    shared = common_tokens(ids, token_slice(want.packed, at, at + BLOCK_TOKENS))
    if len(behind) > 1 and shared + SHOWN_TOKENS > token_count(ids):
        ids += store.ids(behind[1])
    return at + shared, unpack(token_slice(ids, shared, shared + SHOWN_TOKENS))

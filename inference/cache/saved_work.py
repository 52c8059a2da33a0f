"""What the disk's thread does for saved conversations, in steps between which it reads for those who wait."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from inference.cache.blocks import Root
from inference.cache.disk import DiskStore
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_records import BlockLabel, Handle, Kind
from inference.cache.saved_manifest import Manifest
from inference.cache.saved_shelf import MAX_SAVED
from inference.cache.session_record import SessionRecord
from inference.prefix_store import Recalled, Refused, SavedConversation, SavedTotals

SAVED_SHARE: Final = 0.5
"""Of the disk's tier: the rest stays for what is written unasked."""
_LABELS_IN_A_STEP: Final = 32
_STATES_BEHIND: Final = 2


@dataclass(frozen=True, slots=True)
class Recall:
    """What is to be read for a conversation: the packed ids of its paths, as far as their files are there."""

    saved: SavedConversation
    root: Root
    needs_state: bool
    ways: tuple[bytes, ...] = field(repr=False)


type Steps[Answer] = Generator[None, None, Answer]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What memory knows of a conversation: `pieces` are its blocks, each behind those before it, then its states.

    `ends` are keys of blocks at which requests of it ended: the disk may know more.
    """

    root: Root
    pieces: Sequence[tuple[BlockLabel, Handle]] = field(repr=False)
    ends: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be saved: a conversation by its `name`, `told` is what its `owner` calls it."""

    name: str
    owner: str
    told: str
    title: str | None


def save(
    store: DiskStore, wish: Wish, gathered: Gathered | None, now_s: float
) -> Steps[SavedConversation | Refused | None]:
    """Pins, writes what is not there yet, then the manifest. A refusal leaves nothing pinned."""
    before = _of(store, wish.name, wish.owner)
    yield
    gathered = _with_the_earlier(gathered, store.sessions.get(wish.name))
    if gathered is None or not (keys := _keys(store, gathered)):
        return None if before is None else _retitled(store, before, wish)
    if before is None and len(store.saved) >= MAX_SAVED:
        return Refused("too_many")
    sizes = {label.key: handle.nbytes for label, handle in gathered.pieces if label.key not in store.index}
    need_bytes = sum(sizes.values()) + store.saved.held_bytes(keys)
    if store.saved.nbytes(without=wish.name) + need_bytes > store.limit_bytes * SAVED_SHARE:
        return Refused("limit")
    store.index.pin(keys)
    try:
        for label, handle in gathered.pieces:
            if label.key not in store.index:
                if not store.write(label, handle):
                    return Refused(store.refusal)
                yield
        manifest = _manifest(store, wish, gathered.root, before, [key for key in keys if key in store.index], now_s)
        try:
            store.saved.keep(manifest)
        except OSError:
            return Refused("disk")
    finally:
        store.index.unpin(keys)
    return told(store, manifest)


def _keys(store: DiskStore, gathered: Gathered) -> dict[bytes, None]:
    """Of all that is to be kept, in memory or on the disk."""
    keys = dict.fromkeys(label.key for label, _ in gathered.pieces)
    return keys | dict.fromkeys(entry.key for end in gathered.ends for entry in _further(store, end, keys))


def _further(store: DiskStore, end: bytes, keys: Container[bytes]) -> list[DiskEntry]:
    """What the disk has from the beginning up to an end that is not among `keys`, and the states near the end."""
    path = [entry for key in store.index.path(end) if (entry := store.index.get(key)) is not None]
    whole = any(entry.stands_first for entry in path)
    further = sorted((entry for entry in path if whole and entry.key not in keys), key=_start)
    for entry in further[-_STATES_BEHIND:]:
        further += [state for state in store.index.behind(entry.key) if state.kind is Kind.STATE]
    return further


def _with_the_earlier(gathered: Gathered | None, record: SessionRecord | None) -> Gathered | None:
    """With what processes before this one knew of the conversation, where the same model goes on with it."""
    if record is None:
        return gathered
    if gathered is None:
        return Gathered(record.root, (), record.keys)
    return replace(gathered, ends=(*gathered.ends, *record.keys)) if record.tree == gathered.root.key else gathered


def _manifest(
    store: DiskStore, wish: Wish, root: Root, before: Manifest | None, keys: Iterable[bytes], now_s: float
) -> Manifest:
    entries = sorted((entry for key in keys if (entry := store.index.get(key)) is not None), key=_start)
    blocks = [entry for entry in entries if entry.kind is Kind.BLOCK]
    return Manifest(
        name=wish.name,
        owner=wish.owner,
        id=wish.told,
        title=_title(wish, before),
        saved_s=now_s,
        tokens=sum(entry.tokens for entry in blocks),
        model=root.model,
        weights=root.weights,
        settings=root.settings,
        template=root.template,
        tree=root.key,
        token_cost=root.token_cost,
        blocks=tuple(entry.key for entry in blocks),
        states=tuple(entry.key for entry in entries if entry.kind is Kind.STATE),
    )


def _start(entry: DiskEntry) -> int:
    return entry.start


def _title(wish: Wish, before: Manifest | None) -> str:
    return wish.title if wish.title is not None else before.title if before is not None else ""


def _retitled(store: DiskStore, before: Manifest, wish: Wish) -> SavedConversation | Refused:
    """Nothing more is known of it than what was saved."""
    manifest = replace(before, title=_title(wish, before))
    try:
        store.saved.keep(manifest)
    except OSError:
        return Refused("disk")
    return told(store, manifest)


def recall(store: DiskStore, name: str, owner: str) -> Steps[Recall | None]:
    """Reads the labels of a conversation's blocks: its ways are the tokens in them, as far as there is no gap."""
    if (manifest := _of(store, name, owner)) is None:
        return None
    ways = []
    for end in _ends(store, manifest):
        way = b""
        for number, entry in enumerate(_path(store, end)):
            if not (ids := store.ids(entry)):
                break
            way += ids
            if number % _LABELS_IN_A_STEP == _LABELS_IN_A_STEP - 1:
                yield
        ways.append(way)
    return Recall(told(store, manifest), manifest.root, bool(manifest.states), tuple(way for way in ways if way))


def _ends(store: DiskStore, manifest: Manifest) -> list[DiskEntry]:
    """Blocks behind which there is no other of the conversation, reached from the beginning without a gap."""
    reached: dict[bytes, DiskEntry] = {}
    inner = set()
    for key in manifest.blocks:
        entry = store.index.get(key)
        if entry is not None and (entry.stands_first or entry.parent in reached):
            reached[key] = entry
            inner.add(entry.parent)
    return [entry for key, entry in reached.items() if key not in inner]


def _path(store: DiskStore, end: DiskEntry) -> list[DiskEntry]:
    """From the beginning to an end."""
    path = [entry for key in store.index.path(end.key) if (entry := store.index.get(key)) is not None]
    return sorted(path, key=_start)


def lost(store: DiskStore, saved: SavedConversation, warm_tokens: int) -> Steps[Recalled]:
    """What of it is still there once it was read, for reading removes what is broken."""
    yield
    manifest = store.saved.get(saved.name)
    gone = [] if manifest is None else [key for key in manifest.keys if key not in store.index]
    return Recalled(saved, warm_tokens, len(gone))


def delete(store: DiskStore, name: str, owner: str) -> Steps[int | None]:
    """Removes the manifest, and the files that nobody else has saved and nothing else stands behind."""
    if _of(store, name, owner) is None:
        return None
    manifest = store.saved.drop(name)
    before_bytes = store.index.nbytes
    yield
    for key in (*manifest.states, *reversed(manifest.blocks)) if manifest is not None else ():
        if not store.index.has_behind(key):
            store.drop((key,), spare_pinned=True)
    return before_bytes - store.index.nbytes


def totals(store: DiskStore, owner: str) -> Steps[SavedTotals]:
    yield
    own = [manifest for manifest in store.saved if manifest.owner == owner]
    found = sorted((told(store, manifest) for manifest in own), key=lambda saved: -saved.saved_s)
    nbytes = store.saved.held_bytes({key for manifest in own for key in manifest.keys})
    return SavedTotals(tuple(found), nbytes, int(store.limit_bytes * SAVED_SHARE), store.outage)


def nothing(_store: DiskStore) -> Steps[None]:
    """Is over when all reads that were asked for before it are."""
    yield


def told(store: DiskStore, manifest: Manifest) -> SavedConversation:
    return SavedConversation(
        name=manifest.name,
        owner=manifest.owner,
        id=manifest.id,
        title=manifest.title,
        model=manifest.model,
        weights=manifest.weights,
        tokens=manifest.tokens,
        blocks=len(manifest.blocks),
        nbytes=store.saved.held_bytes(manifest.keys),
        saved_s=manifest.saved_s,
    )


def _of(store: DiskStore, name: str, owner: str) -> Manifest | None:
    """A conversation of somebody else is none."""
    manifest = store.saved.get(name)
    return manifest if manifest is not None and manifest.owner == owner else None

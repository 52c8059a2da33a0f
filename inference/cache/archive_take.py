"""Takes stored prefixes in that were computed elsewhere, on the disk's thread, in steps.

Each file is read whole, held to the digest that the manifest has of it, decoded as any file of the disk is, compared
with its name and with the tree that it says to be of, and then written the way everything is written: under the same
limits of size, occupancy and daily writing. What is not taken is counted by the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from inference.cache.archive import Archive, ArchiveWriter, Contents, NotAnArchive, Part, Tree
from inference.cache.disk import DiskStore
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_records import KEY_BYTES, Flaw, Stored
from inference.cache.saved_manifest import Manifest
from inference.cache.saved_shelf import MAX_SAVED
from inference.cache.saved_work import SAVED_SHARE, Steps
from inference.prefix_store import Taken

INCOMING: Final = "incoming"
"""Where another process of ours puts what a running one is to take in, as `<32 hexadecimal digits>.tar`."""
_BATCH: Final = re.compile(r"[0-9a-f]{32}")


def take_in(store: DiskStore, archive: Archive, contents: Contents | None = None) -> Steps[Taken]:
    """Takes parts in, then conversations: all that the archive holds, or what of it `contents` names."""
    files, conversations, taken_bytes = Counter[str](), Counter[str](), 0
    contents = contents or archive.contents
    trees = {tree.root: tree for tree in contents.trees}
    for part in contents.parts:
        came = _take(store, trees, archive, part)
        files[came] += 1
        taken_bytes += part.entry.nbytes if came == "taken" else 0
        yield
    for manifest in contents.conversations:
        conversations[_keep(store, trees.get(manifest.tree), manifest)] += 1
        yield
    return Taken(dict(files), taken_bytes, dict(conversations))


def _take(store: DiskStore, trees: Mapping[bytes, Tree], archive: Archive, part: Part) -> str:
    """What became of a part, in a word."""
    entry = part.entry
    if entry.key in store.index:
        return "known"
    found = _read(store, archive, part)
    if isinstance(found, str):
        return found
    tree = trees.get(found.label.root)
    told = (found.label.weights, found.label.settings)
    if tree is None or told != (tree.weights, tree.settings) or not entry.is_named_by(found.label):
        return "foreign"
    if not _can_be_reached(store, entry):
        return "unreachable"
    return "taken" if store.write(found.label, found.handle) else f"refused_{store.refusal}"


def _read(store: DiskStore, archive: Archive, part: Part) -> Stored | str:
    if not archive.holds(part):
        return "missing"
    try:
        raw = archive.read(part)
    except OSError:
        return "damaged"
    found = Flaw.CORRUPT if raw is None else store.codec.decode(raw)
    if isinstance(found, Stored):
        return found
    return "damaged" if found is Flaw.CORRUPT else str(found)


def _can_be_reached(store: DiskStore, entry: DiskEntry) -> bool:
    """A prompt can begin with it: all before it is there."""
    before = store.index.get(entry.parent)
    return entry.stands_first or (before is not None and before.root == entry.root and before.is_before(entry))


def _keep(store: DiskStore, tree: Tree | None, manifest: Manifest) -> str:
    """Pins what there is of a saved conversation. One that is saved here and holds as much stays as it is."""
    if tree is not None and (manifest.weights, manifest.settings) != (tree.weights, tree.settings):
        return "foreign"
    blocks, states = _present(store, manifest, manifest.blocks), _present(store, manifest, manifest.states)
    keys = [entry.key for entry in (*blocks, *states)]
    before = store.saved.get(manifest.name)
    if not blocks:
        return "missing"
    if before is not None and not set(before.keys) < set(keys):
        return "known"
    if before is None and len(store.saved) >= MAX_SAVED:
        return "refused_too_many"
    if store.saved.nbytes(without=manifest.name) + store.saved.held_bytes(keys) > store.limit_bytes * SAVED_SHARE:
        return "refused_limit"
    kept = replace(
        manifest,
        blocks=tuple(entry.key for entry in blocks),
        states=tuple(entry.key for entry in states),
        tokens=sum(entry.tokens for entry in blocks),
    )
    try:
        store.saved.keep(kept)
    except OSError:
        return "refused_disk"
    return "taken" if len(keys) == len(manifest.keys) else "incomplete"


def _present(store: DiskStore, manifest: Manifest, keys: Iterable[bytes]) -> list[DiskEntry]:
    """What of these files is here, in the tree that the conversation says it is of."""
    found = [entry for key in keys if (entry := store.index.get(key)) is not None]
    return [entry for entry in found if entry.root == manifest.tree[:KEY_BYTES]]


def take_in_batch(store: DiskStore, batch: str) -> Steps[Taken]:
    """As `take_in`, of the file in `INCOMING` that is named so. Raises `NotAnArchive` and `OSError`."""
    if _BATCH.fullmatch(batch) is None:
        raise NotAnArchive("It is not the name of a batch.")
    yield
    with Archive.open(store.directory / INCOMING / f"{batch}.tar", follow=False) as archive:
        return (yield from take_in(store, archive))


def batches(contents: Contents, limit_bytes: int) -> Iterator[Contents]:
    """What to hand over at a time: parts of about `limit_bytes`, and the conversations with the last of them."""
    parts, held_bytes = list[Part](), 0
    for part in contents.parts:
        if parts and held_bytes + part.entry.nbytes > limit_bytes:
            yield replace(contents, conversations=(), parts=tuple(parts))
            parts, held_bytes = [], 0
        parts.append(part)
        held_bytes += part.entry.nbytes
    yield replace(contents, parts=tuple(parts))


def write_batch(archive: Archive, contents: Contents, path: Path, made_s: float) -> Counter[str]:
    """A batch as a file of its own; counts what is not in it. Raises `OSError`."""
    lost = Counter[str]()
    with path.open("xb") as file:
        writer = ArchiveWriter(file, made_s)
        for part in contents.parts:
            raw = archive.read(part)
            if raw is not None:
                writer.add(part.entry, raw)
            else:
                lost["damaged" if archive.holds(part) else "missing"] += 1
        writer.finish(contents.trees, contents.conversations)
    return lost


def only(contents: Contents, weights: str) -> Contents:
    """What a model of these weights has computed."""
    trees = tuple(tree for tree in contents.trees if tree.weights == weights)
    roots = {tree.root[:KEY_BYTES] for tree in trees}
    parts = tuple(part for part in contents.parts if part.entry.root in roots)
    kept = tuple(manifest for manifest in contents.conversations if manifest.weights == weights)
    return Contents(trees, kept, parts)

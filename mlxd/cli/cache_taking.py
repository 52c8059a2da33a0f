"""Takes an archive of stored prefixes into a state directory: through its daemon, or in its place where none runs."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inference.cache.archive import Archive, Contents
from inference.cache.archive_take import INCOMING, batches, take_in, write_batch
from inference.cache.disk_files import Files
from inference.cache.disk_place import lying
from inference.prefix_store import Taken
from mlxd.cli.admin_api import ask
from mlxd.cli.cache_carry import MIB, progress, refuse_full_disk
from mlxd.instance import claim, find_running
from mlxd.paths import StateDir, harden_process, open_state_dir, resolve_state_dir
from mlxd.start_errors import StartError

if TYPE_CHECKING:
    from inference.cache.disk import DiskStore

BATCH_BYTES: Final = 128 * 1024 * 1024
"""What the daemon is given at a time, and so what lies on the disk twice."""
BATCH_S: Final = 600.0
STALE_S: Final = 3600.0

type Counts = tuple[Counter[str], Counter[str], int]
"""Files and conversations by what became of them, and the bytes that were taken."""


def take(archive: Archive, wanted: Contents, state_dir: str | None) -> Counts:
    """Raises `StartError`, `OSError` and, where a daemon came up just now, `AlreadyRunning`."""
    harden_process()
    state = open_state_dir(resolve_state_dir(state_dir, os.environ))
    if find_running(state) is not None:
        return _through_daemon(archive, wanted, state)
    with claim(state):
        return _alone(archive, wanted, state)


# --- where none runs ------------------------------------------------------------------------------------------------


def _alone(archive: Archive, wanted: Contents, state: StateDir) -> Counts:
    store = _store(state)
    store.open()
    try:
        refuse_too_large(wanted, state.prefixes, store.limit_bytes)
        return _counts([_run(store, archive, wanted)])
    finally:
        store.close()


def _run(store: DiskStore, archive: Archive, wanted: Contents) -> Taken:
    steps, done = take_in(store, archive, wanted), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            taken: Taken = end.value
            return taken
        done += 1
        progress("taken in", min(done, len(wanted.parts)), len(wanted.parts))


def _store(state: StateDir) -> DiskStore:
    """With the limits of the settings, but never smaller than what is there: taking in removes nothing but for room."""
    from inference.cache.disk_limits import FREE_SHARE, MOST_BYTES
    from inference.engine.disk import disk_store
    from inference.engine.settings import DiskSettings
    from mlxd.cli.options import read_settings

    config = read_settings({"state_dir": str(state.root)}).config
    limit_bytes = config.ssd_cache_bytes
    if limit_bytes == 0:
        raise StartError("The disk's cache is switched off.", cure="Set ssd_cache_bytes (MLXD_SSD_CACHE_BYTES).")
    state.prefixes.mkdir(mode=0o700, exist_ok=True)
    held_bytes = sum(file.nbytes for file in lying(state.prefixes, Files()))
    if limit_bytes is None:
        used, total = Files().used_share(state.prefixes)
        limit_bytes = min(MOST_BYTES, int((total - used + held_bytes) * FREE_SHARE))
    return disk_store(DiskSettings(state.prefixes, max(limit_bytes, held_bytes), config.ssd_cache_daily_bytes))


# --- through the daemon ---------------------------------------------------------------------------------------------


def _through_daemon(archive: Archive, wanted: Contents, state: StateDir) -> Counts:
    disk = (_answer(state, "GET", "stats") or {}).get("disk")
    if disk is None:
        raise StartError("The running mlxd keeps nothing on the disk.", cure="Start it with ssd_cache_bytes set.")
    refuse_too_large(wanted, state.prefixes, disk["limit_bytes"])
    folder = state.prefixes / INCOMING
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(folder)
    found, lost, done = [], Counter[str](), 0
    for batch in batches(wanted, BATCH_BYTES):
        refuse_full_disk(folder, batch.nbytes)
        name = secrets.token_hex(16)
        path = folder / f"{name}.tar"
        try:
            lost += write_batch(archive, batch, path, time.time())
            told = _answer(state, "POST", "import", {"batch": name})
        finally:
            path.unlink(missing_ok=True)
        found.append(Taken(told["files"], told["nbytes"], told["conversations"]))
        done += len(batch.parts)
        progress("taken in", done, len(wanted.parts))
    files, conversations, nbytes = _counts(found)
    return files + lost, conversations, nbytes


def _answer(state: StateDir, method: str, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    told = ask(state, method, f"/api/cache/{what}", body, timeout_s=BATCH_S)
    if told is None:
        raise StartError("The running mlxd has ended.", cure="Run it again: what was taken in is there.")
    return told


def _sweep(folder: Path) -> None:
    """What an import left that was killed."""
    for path in folder.glob("*.tar"):
        if path.stat().st_mtime < time.time() - STALE_S:
            path.unlink(missing_ok=True)


# --- both -----------------------------------------------------------------------------------------------------------


def refuse_too_large(wanted: Contents, directory: Path, limit_bytes: int) -> None:
    """Raises `StartError` where what is new would push out what came just before it."""
    known = {file.entry.key for file in lying(directory, Files()) if file.entry is not None}
    new_bytes = sum(part.entry.nbytes for part in wanted.parts if part.entry.key not in known)
    if new_bytes > limit_bytes:
        new, limit = f"{new_bytes / MIB:,.0f} MiB", f"{limit_bytes / MIB:,.0f} MiB"
        raise StartError(
            f"It holds {new} that are new, and the disk's cache may have {limit}.",
            cure="Raise ssd_cache_bytes, or export a part: --model NAME or --session ID.",
        )


def _counts(found: list[Taken]) -> Counts:
    files, conversations = Counter[str](), Counter[str]()
    for one in found:
        files.update(one.files)
        conversations.update(one.conversations)
    return files, conversations, sum(one.nbytes for one in found)

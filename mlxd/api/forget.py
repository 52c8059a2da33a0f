"""Takes a session out of everything that remembers it: rows, answers, what was computed, a saved conversation."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from inference.conversation.healing import Said
from inference.prefix_store import StoreRemoval
from mlxd.api.conv_kv import Unavailable, on_disk
from mlxd.api.errors import Conflict
from mlxd.ledger import read
from mlxd.ledger.ledger import LedgerUnavailable
from mlxd.runtime import Runtime


async def forget_session(running: Runtime, session_id: str) -> dict[str, int | bool]:
    """What went, by its kind; nothing of a session that nobody knows. Raises `LedgerUnavailable` where rows stayed."""
    running.witness.forget(session_id)
    saved = await _saved(session_id, await _owner(running, session_id))
    removed = await _computed(running, session_id)
    answers = running.echoes.forget(session_id)
    found: set[Said] = set()
    rows = await running.ledger.forget(session_id, found.add)
    for said in found:  # those that were in memory because somebody looked them up
        running.echoes.store.forget(said.place, (said.turn,))
    return {"answers": max(answers, len(found)), "rows": rows, "saved": saved, **removed}


async def _owner(running: Runtime, session_id: str) -> str:
    try:
        return await running.ledger.read(read.session_owner, session_id) or ""
    except LedgerUnavailable:
        return ""


async def _saved(session_id: str, owner: str) -> bool:
    try:
        return await on_disk(lambda saved: saved.delete(session_id, owner)) is not None
    except (Conflict, Unavailable):  # nothing is kept on the disk
        return False


async def _computed(running: Runtime, session_id: str) -> dict[str, int]:
    """Blocks that only this session stands on, in memory and on the disk."""

    done: StoreRemoval | None = await asyncio.wrap_future(
        running.scheduler.store(lambda store: store.clear(session=session_id))
    )
    removed = asdict(done or StoreRemoval(0, 0, 0, 0))
    return {"blocks": removed["blocks"], "states": removed["snapshots"]}

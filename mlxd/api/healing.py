"""`/api/healing`: what is remembered of answers, and what became of those that clients sent back. For admins only."""

from __future__ import annotations

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from inference.conversation.echo import Outcome
from mlxd import runtime
from mlxd.api.auth import AdminBearer
from mlxd.ledger import read
from mlxd.ledger.ledger import Ledger, LedgerUnavailable

router = Router(tags=["sessions"])
admin = AdminBearer()


@router.get("/healing", auth=admin, summary="What became of the answers that clients sent back")
async def healing(request: ASGIRequest) -> dict[str, Any]:
    """`turns` and `bytes` are in memory, `disk` is null where that cannot be read.

    Counted by message and request, since the start. `unspliced` were recognised and rendered as they were sent.
    """
    running = runtime.current()
    store = running.echoes.store
    counts = store.counts
    return {
        "turns": len(store),
        "bytes": store.nbytes,
        "outcomes": {outcome.value: counts.get(outcome.value, 0) for outcome in Outcome},
        "unspliced": counts.get("unspliced", 0),
        "disk": await _on_disk(running.ledger),
    }


async def _on_disk(ledger: Ledger) -> dict[str, int] | None:
    """What is kept, and since the start the places that were looked up and found, and the rows that were left alone:
    `damaged` or of an `unknown_version` when read, `left_out` while the disk was out."""
    try:
        kept = await ledger.read(read.content)
    except LedgerUnavailable:
        return None
    counts = ledger.shelf_counts
    names = ("looked_up", "found", "damaged", "unknown_version", "left_out")
    return {**kept, **{name: counts.get(name, 0) for name in names}}

"""`/api/healing`: what became of the answers that clients sent back. For the admin only."""

from __future__ import annotations

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from inference.conversation.echo import Outcome
from mlxd import runtime
from mlxd.api.auth import AdminBearer

router = Router(tags=["sessions"])
admin = AdminBearer()


@router.get("/healing", auth=admin, summary="What became of the answers that clients sent back")
async def healing(request: ASGIRequest) -> dict[str, Any]:
    """Counted by message and request, since the start. `unspliced` were recognised and rendered as they were sent."""
    store = runtime.current().echoes.store
    counts = store.counts
    outcomes = {outcome.value: counts.get(outcome.value, 0) for outcome in Outcome}
    return {"turns": len(store), "bytes": store.nbytes, "outcomes": outcomes, "unspliced": counts.get("unspliced", 0)}

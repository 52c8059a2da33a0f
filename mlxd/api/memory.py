"""`GET /api/memory`: where the memory is, by model, session and store, and what nobody can explain. For the admin."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from mlxd import runtime
from mlxd.api.auth import AdminBearer
from mlxd.api.plain import plain
from mlxd.footprint import footprint_bytes
from mlxd.memory_statement import statement
from mlxd.runtime import Runtime

router = Router(tags=["memory"])
admin = AdminBearer()
PATIENCE_S: Final = 2.0
"""The worker answers between two steps; while it loads a model, the statement goes without what only it can tell."""


@router.get(
    "/memory", auth=admin, summary="Where the memory is: weights, rows, prefixes, pool, disk, process, the rest"
)
async def memory(request: ASGIRequest) -> dict[str, Any]:
    running = runtime.current()
    stored = await _stored(running)
    disk, sessions = (None, None) if stored is None else (stored.get("disk"), stored.get("by_session"))
    return statement(running.scheduler.snapshot(), footprint_bytes(), disk, sessions)


async def _stored(running: Runtime) -> dict[str, Any] | None:
    asking = asyncio.wrap_future(running.scheduler.store(lambda store: dict(store.stats())))
    try:
        found = await asyncio.wait_for(asking, PATIENCE_S)
    except TimeoutError:
        return None
    return None if found is None else plain(found)

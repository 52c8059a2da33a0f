"""`/api/counters` and `/api/health`: figures that only rise, and what of them should not have. For the admin only.

Cheap enough to be polled: nothing here asks the worker or the disk.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from inference.conversation.echo import Outcome
from inference.prefix_store import DiskState, StoreTotals
from mlxd import runtime
from mlxd.api import health, ignored
from mlxd.api.auth import AdminBearer

router = Router(tags=["admin"])
admin = AdminBearer()
STORED: Final = (
    *("requests", "prompt_tokens", "cached_tokens", "lost_tokens"),
    *("evictions", "evicted_tokens", "evicted_bytes", "hybrid_trim_tokens"),
    *("audits", "quarantined_blocks", *health.STORED),
)
"""Of the totals of the store those that are counted; the others are what it holds now."""
ON_DISK: Final = ("written", "read", "refused", "dropped", "corrupt")


@router.get("/counters", auth=admin, summary="What was counted since the start, by what it is about")
async def counters(request: ASGIRequest) -> dict[str, Any]:
    """All of them are whole numbers; `uptime_s` is the time they took. What is switched off is null."""
    running = runtime.current()
    view, healed = running.snapshot(), running.echoes.store.counts
    return {
        "uptime_s": view.uptime_s,
        "requests": asdict(view.scheduler.counters),
        "cache": None if view.scheduler.store is None else _stored(view.scheduler.store),
        "content": dict(view.witness),
        "healing": {name: healed.get(name, 0) for name in (*map(str, Outcome), "unspliced")},
        "ignored_fields": ignored.counts(),
    }


@router.get("/health", auth=admin, summary="As /health, with what must be 0 and is not, for a browser too")
async def detailed_health(request: ASGIRequest) -> dict[str, Any]:
    running = runtime.current()
    ready, reason = running.readiness()
    return {"live": running.live(), "ready": ready, "reason": reason or None, "detail": health.detail()}


def _stored(totals: StoreTotals) -> dict[str, Any]:
    is_off = totals.disk.state is DiskState.OFF
    disk = None if is_off else {name: getattr(totals.disk, name) for name in ON_DISK}
    return {**{name: getattr(totals, name) for name in STORED}, "disk": disk}

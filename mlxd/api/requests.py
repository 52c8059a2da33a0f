"""`/api/requests`: what is asked at this moment, and how to end it. For the admin only; no text, sizes and times."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from mlxd import runtime
from mlxd.api.auth import AdminBearer
from mlxd.api.errors import NotFound
from mlxd.api.plain import plain

router = Router(tags=["requests"])
admin = AdminBearer()


@router.get("/requests", auth=admin, summary="Requests that wait or run, in the order in which they came")
async def requests(request: ASGIRequest) -> dict[str, Any]:
    return {"requests": [plain(asdict(one)) for one in runtime.current().scheduler.requests()]}


@router.delete("/requests/{request_id}", auth=admin, summary="End a request; its stream ends with an error event")
async def end(request: ASGIRequest, request_id: str) -> dict[str, Any]:
    ended = runtime.current().scheduler.end(request_id)
    if not ended:
        raise NotFound("There is no such request, or it is over.")
    return {"id": request_id, "ended": ended}

"""`/api`: everything that looks behind the answers or changes the machine. Always authenticated."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from mlxd import runtime
from mlxd.api import ignored
from mlxd.api.auth import AdminBearer
from mlxd.api.plain import plain

router = Router(tags=["admin"])
admin = AdminBearer()


@router.get("/status", auth=admin, summary="What the process is doing")
async def status(request: ASGIRequest) -> dict[str, Any]:
    view: dict[str, Any] = plain(asdict(runtime.current().snapshot()))
    return {**view, "ignored_fields": ignored.counts()}


@router.get("/tools/malformed", auth=admin, summary="The last tool calls that could not be read")
async def malformed_calls(request: ASGIRequest) -> dict[str, Any]:
    """Newest first. Holds text of answers, so it is nowhere but here and in memory."""
    return {"calls": [plain(asdict(call)) for call in runtime.current().malformed.newest_first()]}

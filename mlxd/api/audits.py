"""`/api/audits`: what came of computing warm requests once more from nothing. For the admin only; figures, no text."""

from __future__ import annotations

import re
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from mlxd import runtime
from mlxd.api.auth import AdminBearer
from mlxd.api.errors import InvalidField
from mlxd.api.plain import plain
from mlxd.ledger import audits as ledger_audits

router = Router(tags=["cache"])
admin = AdminBearer()

MAX_PAGE: Final = 200
PAGE: Final = 50
NUMBER: Final = re.compile(r"\d{1,18}")


@router.get("/audits", auth=admin, summary="Audits of the prefix cache, the newest first")
async def audits(request: ASGIRequest, limit: str = str(PAGE), before: str = "") -> dict[str, Any]:
    """A page says in `next` what to send as `before` for the one after it."""
    if not NUMBER.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise InvalidField(f"limit is a number from 1 to {MAX_PAGE}.", param="limit")
    if before and not NUMBER.fullmatch(before):
        raise InvalidField("before is the `next` of an earlier page.", param="before")
    size = int(limit)
    rows = await runtime.current().ledger.read(ledger_audits.audits, size, int(before) if before else None)
    return {"audits": plain(rows), "next": str(rows[-1]["number"]) if len(rows) == size else None}

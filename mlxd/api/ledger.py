"""`/api/sessions` and `/api/turns`: what was asked and answered, from the ledger. For the admin only.

Pages go backwards in time; each says in `next` what to send as `before` for the one after it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from mlxd import runtime
from mlxd.api.auth import AdminBearer
from mlxd.api.errors import InvalidField, NotFound
from mlxd.api.forget import forget_session
from mlxd.api.plain import plain
from mlxd.api.wholly import wholly
from mlxd.ledger import compare, read

router = Router(tags=["sessions"])
admin = AdminBearer()

MAX_PAGE: Final = 200
PAGE: Final = 50
ID: Final = re.compile(r"[0-9a-f]{32}")
SESSION_MARK: Final = re.compile(r"(\d{1,11}\.\d{1,6})-([0-9a-f]{32})")
NUMBER: Final = re.compile(r"\d{1,18}")


@router.get("/sessions", auth=admin, summary="Sessions, the last used first")
async def sessions(request: ASGIRequest, limit: str = str(PAGE), before: str = "") -> dict[str, Any]:
    size, mark = _size(limit), SESSION_MARK.fullmatch(before)
    if before and mark is None:
        raise InvalidField("before is the `next` of an earlier page.", param="before")
    seen = (float(mark[1]), mark[2]) if mark else None
    rows = await runtime.current().ledger.read(read.sessions, None, size, seen)
    after = f"{rows[-1]['touched_s']:.6f}-{rows[-1]['id']}" if len(rows) == size else None
    return {"sessions": plain(rows), "next": after}


@router.get("/sessions/{session_id}", auth=admin, summary="A session with its turns, the newest first")
async def session(request: ASGIRequest, session_id: str, limit: str = str(PAGE), before: str = "") -> dict[str, Any]:
    size = _size(limit)
    if before and not NUMBER.fullmatch(before):
        raise InvalidField("before is the `next` of an earlier page.", param="before")
    seen = int(before) if before else None
    found = None
    if ID.fullmatch(session_id):
        found = await runtime.current().ledger.read(read.session, None, session_id, size, seen)
    if found is None:
        raise NotFound("There is no such session.")
    after = str(found["turns"][-1]["number"]) if len(found["turns"]) == size else None
    return {**plain(found), "next": after}


@router.delete("/sessions/{session_id}", auth=admin, summary="Forget a session, and what was said and computed in it")
async def forget(request: ASGIRequest, session_id: str) -> dict[str, Any]:
    """In memory and on the disk. What other sessions share with it stays. It cannot be undone."""
    if not ID.fullmatch(session_id):
        raise NotFound("There is no such session.")
    gone = await wholly(forget_session(runtime.current(), session_id))
    if not any(gone.values()):
        raise NotFound("There is no such session.")
    return {"id": session_id, **gone}


@router.get("/turns/{turn_id}", auth=admin, summary="A turn, what it cost, and what goes on from it")
async def turn(request: ASGIRequest, turn_id: str) -> dict[str, Any]:
    found = None
    if ID.fullmatch(turn_id):
        found = await runtime.current().ledger.read(read.turn, None, turn_id)
    if found is None:
        raise NotFound("There is no such turn.")
    answered: dict[str, Any] = plain(found)
    return answered


@router.get("/turns/{turn_id}/against/{other_id}", auth=admin, summary="The first message in which two turns differ")
async def against(request: ASGIRequest, turn_id: str, other_id: str) -> dict[str, Any]:
    """By hashes: of what clients sent no text is kept. `left` is the first of the two."""
    found = None
    if ID.fullmatch(turn_id) and ID.fullmatch(other_id):
        found = await runtime.current().ledger.read(compare.compared, turn_id, other_id)
    if found is None:
        raise NotFound("There is no such turn.")
    answered: dict[str, Any] = plain(found)
    return answered


def _size(limit: str) -> int:
    if not NUMBER.fullmatch(limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise InvalidField(f"limit is a number from 1 to {MAX_PAGE}.", param="limit")
    return int(limit)

"""Signing a browser in and out, and the admin token's change.

A code of one use is minted for whoever has the token, and swapped by the login page for a cookie, and for what the page
has to send with every change. The token itself may be typed into the page instead, five times a minute.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, JsonResponse
from ninja import Router
from pydantic import StringConstraints

from mlxd.api import policy
from mlxd.api.auth import AdminBearer, Public, is_admin_token
from mlxd.api.errors import Conflict, InsufficientScope, InvalidField, InvalidKey, TooOften
from mlxd.api.orders import body_of
from mlxd.api.schemas.types import Body
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate
from mlxd.api.wholly import wholly
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.keys.browsers import csrf_of
from mlxd.keys.codes import CODE_S
from mlxd.keys.key import digest
from mlxd.keys.pages import cookie_name, cookie_of, from_own_page
from mlxd.paths import new_admin_token
from mlxd.start_errors import UnsafeStateDir

router = Router(tags=["login"])
admin, public = AdminBearer(), Public()
Secret = Annotated[str, StringConstraints(min_length=1, max_length=512)]
WRONG: Final = "This does not sign anybody in: mistyped, used before, or too old. `mlxd open` makes a fresh code."

log = structlog.get_logger(__name__)


class LoginRequest(Body):
    """One of both."""

    code: Secret | None = None
    token: Secret | None = None


@router.post("/login/code", auth=admin, summary="A code that signs one browser in, once, within a minute")
async def login_code(request: ASGIRequest) -> dict[str, Any]:
    return {"code": access.current().codes.mint(time.monotonic()), "expires_in_s": CODE_S}


@router.post(
    "/login", auth=public, summary="Sign a browser in, from the login page only", openapi_extra=body_of(LoginRequest)
)
async def login(request: ASGIRequest) -> HttpResponse:
    if not from_own_page(request):
        raise InsufficientScope("Signing in is for the login page of this server.")
    wanted = validate(LoginRequest, parse_object(request.body))
    if (wanted.code is None) == (wanted.token is None):
        raise InvalidField("Send one of code and token.", param="code")
    token = access.admin()
    if token is None or not _good(wanted):
        log.warning("login_refused", with_code=wanted.code is not None)
        raise InvalidKey(WRONG)
    cookie = await access.current().browsers.sign_in(token, time.time())
    response = JsonResponse({"signed_in": True, "csrf": csrf_of(token, cookie)})  # told here, and by nothing else
    response["Cache-Control"] = "no-store"
    response.set_cookie(cookie_name(request), cookie, path="/", httponly=True, samesite="Strict")
    return response


@router.post("/logout", auth=admin, summary="Sign this browser out")
async def logout(request: ASGIRequest) -> HttpResponse:
    cookie, token = cookie_of(request), access.admin()
    if cookie and token is not None:
        await wholly(access.current().browsers.sign_out(token, cookie))
    response = JsonResponse({"signed_in": False})
    response.delete_cookie(cookie_name(request), path="/", samesite="Strict")
    return response


@router.post("/token/rotate", auth=admin, summary="A fresh admin token in the place of the old, and all signed out")
async def rotate(request: ASGIRequest) -> dict[str, Any]:
    """The token is not told: who may know it reads it from its file, as before. Keys stay as they are."""
    now = access.current()
    if now.token_file is None:
        raise Conflict("There is no file to keep a token in.", code="no_token_file")
    return {"rotated": True, "signed_out": await wholly(_rotated(now, now.token_file))}


async def _rotated(now: Access, token_file: Path) -> int:
    """How many browsers were signed out. One after the other: what the file holds is what counts."""
    async with now.changing:
        try:
            token = await asyncio.to_thread(new_admin_token, token_file)
        except UnsafeStateDir as error:
            raise Conflict(error.message, code="token_not_saved") from None
        policy.install(replace(policy.current(), admin_digest=digest(token)))
    now.codes.take_back()
    return await now.browsers.sign_all_out()


def _good(wanted: LoginRequest) -> bool:
    """A code may be tried as often as one likes, it has 256 bits and a minute; with the token guessing is slowed down.
    Raises `TooOften`."""
    if wanted.code is not None:
        return access.current().codes.redeem(wanted.code, time.monotonic())
    wait_s = access.current().guesses.take(time.monotonic())
    if wait_s:
        raise TooOften(
            "That was tried too often. `mlxd open` signs in without typing.", retry_after_s=math.ceil(wait_s)
        )
    return is_admin_token(wanted.token or "")

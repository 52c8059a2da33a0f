"""Who may see a page. Every view that is not an operation of the API carries one of these; the start checks it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect

from mlxd.keys import access

type View = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]

MARK: Final = "mlxd_access"
LOGIN: Final = "/login"
LOOKING: Final = ("GET", "HEAD")
"""A page is looked at. What changes anything is an operation of the API."""


def open_to_all(view: View) -> View:
    """A page that says nothing of what goes on here."""

    @functools.wraps(view)
    async def looked_at(request: HttpRequest) -> HttpResponse:
        return await view(request) if request.method in LOOKING else HttpResponseNotAllowed(LOOKING)

    setattr(looked_at, MARK, "all")
    return looked_at


def signed_in(view: View) -> View:
    """A page for browsers that an admin opened. Others are sent to the login, or told so where it is no whole page."""

    @functools.wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponse:
        if request.method not in LOOKING:
            return HttpResponseNotAllowed(LOOKING)
        if cookie_of(request):
            response = await view(request)
        elif request.GET:
            response = HttpResponse("Sign in again.", status=401, content_type="text/plain")
        else:
            response = HttpResponseRedirect(LOGIN)
        response["Cache-Control"] = "no-store"
        return response

    setattr(guarded, MARK, "signed in")
    return guarded


def cookie_name(request: HttpRequest) -> str:
    """All ports of an address share their cookies: the name tells whose it is."""
    return f"mlxd_session_{request.META.get('SERVER_PORT', '')}"


def cookie_of(request: HttpRequest) -> str:
    """What the cookie of a signed-in browser holds; "" for everybody else."""
    cookie = request.COOKIES.get(cookie_name(request), "")
    token = access.admin()
    if not cookie or token is None:
        return ""
    return cookie if access.current().browsers.knows(token, cookie, time.time()) else ""


def from_own_page(request: HttpRequest) -> bool:
    """Whether a page of ours sent it: the Origin is exactly the name that we were called by, which the gate has seen
    to. Where there is none, no page did, or it only asks."""
    return request.headers.get("Origin", "") == f"http://{request.headers.get('Host', '')}"

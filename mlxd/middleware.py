"""What surrounds every Django answer: JSON errors on API paths, headers on pages, static files.

All of it is asynchronous by nature and touches headers and memory only. A synchronous middleware would put each
request, and each folded generation for its whole length, into a thread of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.csp import ContentSecurityPolicyMiddleware
from django.utils.decorators import async_only_middleware
from whitenoise.middleware import WhiteNoiseMiddleware

from mlxd.api.facts import facts_of
from mlxd.error_shapes import error_response

type View = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

API_ROOTS: Final = frozenset({"v1", "anthropic", "api", "health", "metrics"})
_TOLD: Final = {
    400: ("invalid_request", "The request cannot be read."),
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "This method is not allowed here; Allow says which are."),
}
_FAILED: Final = ("internal_error", "The server failed on this request.")
_PAGE_HEADERS: Final = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@async_only_middleware
def json_errors(get_response: View) -> View:
    """Django's and ninja's own refusals are HTML or plain text; no HTML leaves an API route."""

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        try:
            response = await get_response(request)
        finally:  # also when the client left meanwhile
            if request.resolver_match is not None:
                facts_of(getattr(request, "scope", {})).route = f"/{request.resolver_match.route}"
        if response.status_code < 400 or request.path.split("/")[1] not in API_ROOTS:
            return response
        if response.get("Content-Type", "").startswith("application/json"):
            return response
        return _as_json(request.path, response)

    return middleware


def _as_json(path: str, old: HttpResponseBase) -> HttpResponse:
    code, message = _TOLD.get(old.status_code, _FAILED)
    _, headers, body = error_response(path, status=old.status_code, code=code, message=message)
    response = HttpResponse(body, status=old.status_code)
    for name, value in headers:
        response[name.decode()] = value.decode()
    if "Allow" in old:
        response["Allow"] = ", ".join(sorted(old["Allow"].split(", ")))
    return response


class PageHeaders(ContentSecurityPolicyMiddleware):
    """The content security policy and its kin, on pages only: on JSON they are bytes that nobody reads. That everything
    is what its type says, no browser has to guess."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        return self.process_response(request, await self.get_response(request))  # type: ignore[misc]

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if not response.get("Content-Type", "").startswith("text/html"):
            return response
        for name, value in _PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
        return super().process_response(request, response)


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # whitenoise is not followed
    """WhiteNoise without its thread: the files are few and small, so they are read whole."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: View) -> None:
        super().__init__(get_response)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        found = self.files.get(request.path_info)
        if found is None:
            return await self.get_response(request)  # type: ignore[no-any-return]
        served = found.get_response(request.method, request.META)
        body = b""
        if served.file is not None:
            with served.file as file:
                body = file.read()
        response = HttpResponse(body, status=int(served.status))
        del response["Content-Type"]
        for name, value in served.headers:
            response[name] = value
        response["X-Content-Type-Options"] = "nosniff"
        return response

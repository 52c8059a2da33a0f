"""The ninja API: routers under their prefixes, and every exception through the one error table."""

from __future__ import annotations

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from inference.errors import InferenceError
from mlxd import __version__
from mlxd.api import (
    admin,
    audits,
    cache,
    conv_kv,
    counters,
    healing,
    health,
    keys,
    ledger,
    live_settings,
    login,
    memory,
    models,
    openai,
    openapi,
    requests,
)
from mlxd.api.errors import InvalidBody, InvalidKey, http_response, log_unexpected
from mlxd.api.facts import facts_of

api = NinjaAPI(title="mlxd", version=__version__, docs_url=None, openapi_url=None, urls_namespace="mlxd")
api.add_router("/v1", openai.router)
api.add_router("/v1/conv_kv", conv_kv.router)
api.add_router("/health", health.router)
api.add_router("/api", admin.router)
api.add_router("/api", models.router)
api.add_router("/api", memory.router)
api.add_router("/api", counters.router)
api.add_router("/api", requests.router)
api.add_router("/api", live_settings.router)
api.add_router("/api", openapi.router)
api.add_router("/api/cache", cache.router)
api.add_router("/api", audits.router)
api.add_router("/api", ledger.router)
api.add_router("/api", healing.router)
api.add_router("/api", keys.router)
api.add_router("/api", login.router)


def _request_id(request: HttpRequest) -> str:
    found: str = getattr(request, "scope", {}).get("mlxd.request_id") or ""
    return found


@api.exception_handler(InferenceError)
def _ours(request: HttpRequest, error: InferenceError) -> HttpResponse:
    facts_of(getattr(request, "scope", {})).refused = error.code
    return http_response(error, request.path, _request_id(request))


@api.exception_handler(AuthenticationError)
def _unauthenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    return _ours(request, InvalidKey("A key is required."))


@api.exception_handler(RequestDataTooBig)
@api.exception_handler(HttpError)
@api.exception_handler(ValidationError)
def _unreadable(request: HttpRequest, error: Exception) -> HttpResponse:
    return _ours(request, InvalidBody("The request cannot be read.", code="invalid_request"))


@api.exception_handler(Exception)
def _unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
    log_unexpected(error, _request_id(request))
    return http_response(error, request.path, _request_id(request))

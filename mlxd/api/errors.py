"""The one table that turns an error into an answer: status, code, type, headers. Routes and streams all use it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Final

import structlog
from django.http import HttpResponse

from inference.errors import (
    BusyError,
    EngineError,
    InferenceError,
    InvalidParameter,
    ModelError,
    ModelNotFound,
    RequestError,
)
from inference.scheduler import Ended, ModelInUse
from mlxd.error_shapes import busy_status, error_body, error_response
from mlxd.seals import ModelChanged

log = structlog.get_logger(__name__)


class InvalidBody(RequestError):
    """The bytes are not the JSON we read. The code says which rule was broken."""

    def __init__(self, message: str, *, code: str = "invalid_json") -> None:
        super().__init__(message)
        self.code = code


class InvalidField(InvalidParameter):
    """A field has the wrong type or value, or is missing. `param` is its JSON path."""

    def __init__(self, message: str, *, param: str, code: str = "invalid_value") -> None:
        super().__init__(message, param=param)
        self.code = code


class InvalidKey(RequestError):
    """The credential is missing, wrong, or two different ones were sent."""

    code = "invalid_api_key"


class NotFound(RequestError):
    """There is nothing of that id, or nothing that the caller may see."""

    code = "not_found"


class Conflict(RequestError):
    """The request is right, and something here is not as it would have to be. The code says what."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class InsufficientScope(RequestError):
    """The credential is good and does not open this door."""

    code = "insufficient_scope"


class TooOften(BusyError):
    """The caller comes more often than it may. `retry_after_s` says when it may come again."""

    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one branch of the error tree is answered. `busy` takes the route's own busy status."""

    status: int = 500
    busy: bool = False
    permanent: bool = False


RULES: Final[dict[type[InferenceError], Rule]] = {
    InferenceError: Rule(500),
    RequestError: Rule(400),
    InvalidKey: Rule(401),
    InsufficientScope: Rule(403),
    ModelNotFound: Rule(404),
    NotFound: Rule(404),
    Conflict: Rule(409),
    ModelInUse: Rule(409, permanent=True),
    Ended: Rule(409, permanent=True),
    TooOften: Rule(429),
    BusyError: Rule(busy=True),
    ModelChanged: Rule(409, permanent=True),
    ModelError: Rule(400, permanent=True),
    EngineError: Rule(500),
}
"""The nearest ancestor answers."""


@dataclass(frozen=True, slots=True)
class Described:
    """An error as a client may see it."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    permanent: bool = False


def describe(error: BaseException, path: str, request_id: str = "") -> Described:
    """What to tell the client on `path`. The text of an error that is not ours is never told: it may hold a prompt."""
    if not isinstance(error, InferenceError):
        suffix = f" Request id: {request_id}." if request_id else ""
        return Described(500, "internal_error", f"The server failed on this request.{suffix}")
    rule = next(RULES[ancestor] for ancestor in type(error).__mro__ if ancestor in RULES)
    return Described(
        status=busy_status(path) if rule.busy else rule.status,
        code=error.code,
        message=error.message,
        param=error.param,
        retry_after_s=error.retry_after_s if isinstance(error, BusyError) else None,
        permanent=rule.permanent,
    )


def answer(error: BaseException, path: str, request_id: str = "") -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The whole refusal `(status, headers, body)`. The transport adds the request id header."""
    told = describe(error, path, request_id)
    return error_response(
        path,
        status=told.status,
        code=told.code,
        message=told.message,
        param=told.param,
        retry_after_s=told.retry_after_s,
        permanent=told.permanent,
    )


def http_response(error: BaseException, path: str, request_id: str = "") -> HttpResponse:
    """The refusal as a Django response."""
    status, headers, body = answer(error, path, request_id)
    response = HttpResponse(body, status=status)
    for name, value in headers:
        response[name.decode()] = value.decode()
    return response


def in_stream(error: BaseException, path: str, request_id: str = "") -> bytes:
    """The error as one event of a stream that has begun; no `[DONE]` follows it."""
    told = describe(error, path, request_id)
    body = error_body(path, status=told.status, code=told.code, message=told.message, param=told.param)
    return b"data: " + body + b"\n\n"


def log_unexpected(error: BaseException, request_id: str) -> None:
    """Class, place and request id only: the text of an exception can carry a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    log.error("unexpected_error", error=type(error).__name__, where=where, request_id=request_id)

"""The two JSON error bodies mlxd speaks, chosen by route.

Pure and free of imports from the rest of mlxd, because the transport answers before any application exists. It knows
routes, statuses and shapes; it does not know exceptions, sockets or Django.
"""

from __future__ import annotations

import json
from typing import Final

type Headers = list[tuple[bytes, bytes]]

_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_ECHO_CHARS: Final = 64


def is_anthropic(path: str) -> bool:
    """Whether answers on `path` (query ignored) use the Anthropic shape; every other route uses the OpenAI one."""
    segments = path.partition("?")[0].split("/")
    return segments[1:3] == ["v1", "messages"] or segments[1:2] == ["anthropic"]


def busy_status(path: str) -> int:
    """The status that says "full or draining, try later": 529 on Anthropic routes, 503 elsewhere."""
    return 529 if is_anthropic(path) else 503


def error_type(path: str, status: int) -> str:
    """The `type` member for `status` in the vocabulary of the route."""
    if is_anthropic(path):
        return _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_body(
    path: str,
    *,
    status: int,
    code: str,
    message: str,
    param: str | None = None,
    request_id: str | None = None,
) -> bytes:
    """The error as UTF-8 JSON in the shape of the route. `code` and `param` exist only in the OpenAI shape."""
    kind = error_type(path, status)
    shape: dict[str, object]
    if is_anthropic(path):
        shape = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    else:
        shape = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return json.dumps(shape).encode()


def refusal_headers(retry_after_s: int | None = None, *, permanent: bool = False) -> Headers:
    """Headers that tell an SDK whether another attempt is worth it.

    Both SDKs send 408, 409, 429 and 5xx three times; `x-should-retry: false` stops that (measured: one attempt).
    """
    headers: Headers = []
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % retry_after_s))
    if permanent:
        headers.append((b"x-should-retry", b"false"))
    return headers


def request_id_headers(request_id: str) -> Headers:
    """The request id under the name each family of SDKs reads."""
    value = request_id.encode("ascii")
    return [(b"x-request-id", value), (b"request-id", value)]


def error_response(
    path: str,
    *,
    status: int,
    code: str,
    message: str,
    param: str | None = None,
    request_id: str | None = None,
    retry_after_s: int | None = None,
    permanent: bool = False,
) -> tuple[int, Headers, bytes]:
    """A whole answer `(status, headers, body)`: the body of `error_body` with the headers that belong to it."""
    body = error_body(path, status=status, code=code, message=message, param=param, request_id=request_id)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
        *refusal_headers(retry_after_s, permanent=permanent),
        *(request_id_headers(request_id) if request_id else []),
    ]
    return status, headers, body


def clip(text: str, limit_chars: int = _ECHO_CHARS) -> str:
    """`text` made fit to be repeated in a message: printable, at most `limit_chars` characters."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: limit_chars + 1])
    return shown if len(shown) <= limit_chars else shown[: limit_chars - 1] + "…"

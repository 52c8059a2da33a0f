"""Answers the transport gives by itself, and request ids."""

from __future__ import annotations

import secrets
from http import HTTPStatus

from mlxd.error_shapes import Headers, error_response
from mlxd.transport.gate import Refusal


def new_request_id() -> str:
    """A fresh 128-bit id. Ids offered by clients are never taken over: they would forge log lines."""
    return f"req_{secrets.token_hex(16)}"


def refusal_response(refusal: Refusal, path: str, request_id: str) -> tuple[int, Headers, bytes]:
    """`refusal` as an answer in the shape of the route."""
    status, headers, body = error_response(
        path,
        status=refusal.status,
        code=refusal.code,
        message=refusal.message,
        request_id=request_id,
        retry_after_s=refusal.retry_after_s,
        permanent=refusal.permanent,
    )
    if refusal.allow:
        headers.append((b"allow", ", ".join(refusal.allow).encode()))
    return status, headers, body


def raw_refusal(refusal: Refusal, path: str, request_id: str, *, head_only: bool = False) -> bytes:
    """The same as bytes for the socket, for when no request object can answer; the connection ends after it."""
    status, headers, body = refusal_response(refusal, path, request_id)
    lines = [f"HTTP/1.1 {status} {reason_phrase(status)}".encode()]
    lines += [name + b": " + value for name, value in [*headers, (b"connection", b"close")]]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head_only else body)


def reason_phrase(status: int) -> str:
    """The words beside a status; statuses outside the registry (529) have none of their own."""
    return HTTPStatus(status).phrase if status in HTTPStatus else "Refused"

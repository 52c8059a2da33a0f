"""What the transport itself refuses, beside the rules of the gate."""

from __future__ import annotations

from mlxd.transport.gate import Refusal
from mlxd.transport.limits import TransportLimits

TOO_MANY_CONNECTIONS = Refusal(503, "too_many_connections", "Too many connections are open.", retry_after_s=1)
MALFORMED = Refusal(400, "malformed_request", "The request is not valid HTTP/1.1.")
HEAD_TOO_LARGE = Refusal(431, "headers_too_large", "The request headers are too many or too long.")
TARGET_TOO_LONG = Refusal(414, "uri_too_long", "The request target is too long.")
BODY_UNSTORED = Refusal(503, "storage_unavailable", "The request body could not be stored.", retry_after_s=5)
WASTEFUL_CHUNKS = Refusal(400, "wasteful_chunks", "The chunked body is more framing than content.")
LATE_HEAD = Refusal(408, "request_timeout", "The request headers did not arrive in time.")
LATE_BODY = Refusal(408, "request_timeout", "The request body did not arrive in time.")
FAILED = Refusal(500, "internal_error", "The server failed to answer this request.")


def body_too_large(limits: TransportLimits) -> Refusal:
    """Sending the same body again would not help, and the answer says so."""
    limit_mib = limits.body_bytes / (1024 * 1024)
    return Refusal(413, "request_too_large", f"The request body is larger than {limit_mib:g} MiB.", permanent=True)

"""Who may call which operation. Every operation carries one of these; `checks` refuses to start without.

Credentials are compared by digest in constant time, whatever header carried them, and are neither kept nor logged.
"""

from __future__ import annotations

import hmac
from typing import Final

from django.http import HttpRequest

from mlxd.api import policy
from mlxd.api.errors import InsufficientScope, InvalidKey

OURS: Final = "mlxd_"
ADMIN: Final = "mlxd_admin_"
_CARRIERS: Final = ("X-Api-Key", "Api-Key")


def credentials(request: HttpRequest) -> set[str]:
    """Every credential in the headers. Never from the query string: it ends up in histories and logs."""
    found = {request.headers.get(name, "").strip() for name in _CARRIERS}
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        found.add(token.strip())
    return found - {""}


class Public:
    """Explicitly open to everyone who passed the gate."""

    async def __call__(self, request: HttpRequest) -> str:
        return "public"


class AnyKey:
    """Inference on loopback: any key or none. A key that looks like ours must be ours; a typo is not silent."""

    async def __call__(self, request: HttpRequest) -> str:
        if any(key.startswith(OURS) for key in credentials(request)):
            raise InvalidKey("This key is not known here. Any key that does not start with mlxd_ is accepted.")
        return "keyless"


class AdminBearer:
    """The admin token, on loopback too: a local process or a page in a browser is not the admin."""

    async def __call__(self, request: HttpRequest) -> str:
        found = credentials(request)
        if len(found) != 1:
            message = "Two different keys were sent." if found else "The admin token is required."
            raise InvalidKey(f"{message} Send Authorization: Bearer with the token from admin.token.")
        (token,) = found
        expected = policy.current().admin_digest
        if expected is not None and hmac.compare_digest(policy.digest(token), expected):
            return "admin"
        if token.startswith(OURS) and not token.startswith(ADMIN):
            raise InsufficientScope("This key is not for the admin API.")
        raise InvalidKey("The admin token is wrong.")

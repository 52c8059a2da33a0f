"""Who may call which operation. Every operation carries one of these; `checks` refuses to start without.

Credentials are compared by digest, whatever header carried them, and are neither kept nor logged. What an auth returns
is the `Caller`, which the operation finds with `caller_of`.
"""

from __future__ import annotations

import hmac
import math
import time
from typing import Final

from django.http import HttpRequest

from mlxd.api import policy
from mlxd.api.errors import InsufficientScope, InvalidKey, TooOften
from mlxd.api.facts import facts_of
from mlxd.keys import access
from mlxd.keys.access import ADMIN, KEYLESS, Caller
from mlxd.keys.browsers import csrf_of
from mlxd.keys.key import ApiKey, Scope, digest
from mlxd.keys.pages import cookie_of, from_own_page

OURS: Final = "mlxd_"
CSRF_HEADER: Final = "X-MLXD-CSRF"
_CARRIERS: Final = ("X-Api-Key", "Api-Key")


def credentials(request: HttpRequest) -> set[str]:
    """Every credential in the headers. Never from the query string: it ends up in histories and logs."""
    found = {value for name in _CARRIERS for value in _values(request, name)}
    for scheme, _, token in (value.partition(" ") for value in _values(request, "Authorization")):
        if scheme.lower() == "bearer":
            found.add(token.strip())
    return found - {""}


def _values(request: HttpRequest, name: str) -> list[str]:
    """What each header of a name holds: Django joins them with a comma, behind which a second key would go unseen."""
    return [value.strip() for value in request.headers.get(name, "").split(",")]


def caller_of(request: HttpRequest) -> Caller:
    """Who the operation's auth found out."""
    found = getattr(request, "auth", None)
    return found if isinstance(found, Caller) else KEYLESS


class Public:
    """Explicitly open to everyone who passed the gate."""

    async def __call__(self, request: HttpRequest) -> Caller:
        return KEYLESS


class AnyKey:
    """Inference. On loopback any key or none does, unless one is required; one that looks like ours must be ours: a
    typo is not silent. Cookies count for nothing here."""

    async def __call__(self, request: HttpRequest) -> Caller:
        found = credentials(request)
        if not any(secret.startswith(OURS) for secret in found):
            if policy.current().require_key:
                raise InvalidKey(_key_required(policy.current().people))
            return KEYLESS
        secret = _the_one(found)
        if is_admin_token(secret):
            raise InsufficientScope("The admin token is not for inference. `mlxd keys add` makes a key that is.")
        key = _good_key(request, secret, Scope.INFER)
        return Caller(client=key.id, key=key)


class AdminBearer:
    """The admin token, a key of that scope, or a browser that is signed in; on loopback too: a local process or a page
    in a browser is not the admin."""

    async def __call__(self, request: HttpRequest) -> Caller:
        found = credentials(request)
        if not found:
            return _signed_in(request)
        secret = _the_one(found)
        if is_admin_token(secret):
            return ADMIN
        if not secret.startswith(OURS):
            raise InvalidKey("The admin token is wrong.")
        key = _good_key(request, secret, Scope.ADMIN)
        return Caller(client=key.id, key=key, admin=True)


def _signed_in(request: HttpRequest) -> Caller:
    """A browser may ask by its cookie. To change anything takes a page of ours that has what the login told it: other
    ports of this machine are sent the cookie too."""
    cookie, token = cookie_of(request), access.admin()
    if not cookie or token is None:
        raise InvalidKey("The admin token is required. Send Authorization: Bearer with the token of admin.token.")
    asks = request.method in ("GET", "HEAD")
    if not (from_own_page(request) or (asks and "Origin" not in request.headers)):
        raise InsufficientScope("A browser may do this from a page of this server only.")
    given = request.headers.get(CSRF_HEADER, "")
    if not asks and not hmac.compare_digest(given.encode(), csrf_of(token, cookie).encode()):
        raise InsufficientScope(f"A page sends {CSRF_HEADER} with what it changes. Sign in again to get one.")
    return ADMIN


def _key_required(people: int) -> str:
    """`people` have accounts on this machine where that is why, else 0."""
    if not people:
        return "A key of this server is required. `mlxd keys add NAME` makes one."
    return (
        f"A key of this server is required: {people} people have accounts on this machine. `mlxd keys add NAME` makes"
        " one; mlxd that is started with `--no-require-key` asks nobody for one."
    )


def is_admin_token(secret: str) -> bool:
    expected = access.admin()
    return expected is not None and hmac.compare_digest(digest(secret), expected)


def _the_one(found: set[str]) -> str:
    if len(found) != 1:
        raise InvalidKey("Two different keys were sent.")
    (secret,) = found
    return secret


def _good_key(request: HttpRequest, secret: str, scope: Scope) -> ApiKey:
    """The key of a credential that looks like ours, which has come once more. Raises `InvalidKey`, `InsufficientScope`
    or `TooOften`."""
    key = access.current().keyring.find(digest(secret))
    if key is None:
        raise InvalidKey("This key is not known here: mistyped, or removed. `mlxd keys ls` lists those there are.")
    facts_of(getattr(request, "scope", {})).key_id = key.id
    if key.expired(time.time()):
        raise InvalidKey("This key has expired.")
    if scope not in key.scopes:
        raise InsufficientScope(f"This key has no scope {scope.value!r}.")
    wait_s = access.current().keyring.admit(key)
    if wait_s:
        message = f"This key may send {key.requests_per_minute} requests a minute."
        raise TooOften(message, retry_after_s=math.ceil(wait_s))
    return key

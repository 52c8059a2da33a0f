"""One API key: what is kept of it, which is everything but the key."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from inference.errors import InvalidParameter

PREFIX: Final = "mlxd_sk_"
SECRET_BYTES: Final = 32
ID_CHARS: Final = 8
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}")
MODEL: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
MAX_KEYS: Final = 1000
MAX_MODELS: Final = 64
MAX_PER_MINUTE: Final = 100_000
MAX_SPAN_S: Final = 3.2e9
"""A hundred years. Later than the year 9999 is no date that could be kept."""


class Scope(StrEnum):
    """What a key opens: the models, or everything under `/api`."""

    INFER = "infer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`digest` is the SHA-256 of the key. No `models`: all of them. `expires_s` is Unix time, None never.

    `requests_per_minute` 0 is no limit.
    """

    digest: bytes
    name: str
    scopes: frozenset[Scope] = frozenset({Scope.INFER})
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    created_s: float = 0.0
    expires_s: float | None = None

    @property
    def id(self) -> str:
        """What it is called in logs, in the ledger and as a client of the queue."""
        return self.digest.hex()[:ID_CHARS]

    def expired(self, now_s: float) -> bool:
        return self.expires_s is not None and self.expires_s <= now_s

    def may_use(self, model_id: str) -> bool:
        return not self.models or model_id in self.models

    def salt(self, secret: bytes) -> bytes:
        """Parts what is stored for it from what is stored for anybody else. The same after a restart."""
        return hmac.digest(secret, b"mlxd prefix salt\0" + self.digest, "sha256")


@dataclass(slots=True)
class Usage:
    """What a key was used for since it was made. `last_used_s` is Unix time, None for never."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    last_used_s: float | None = None


def make_key(
    name: str,
    taken: Callable[[str], bool],
    *,
    scopes: Iterable[str] = (Scope.INFER,),
    models: Iterable[str] = (),
    requests_per_minute: int = 0,
    expires_in_s: float | None = None,
) -> tuple[str, ApiKey]:
    """A fresh key of 256 random bits, told here and never again, and what is to be kept of it.

    `taken` says whether a name or an id is another key's. Raises `InvalidParameter`.
    """
    wanted, models = frozenset(scopes), tuple(models)
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            "name is 1 to 64 of letters, digits and ._@- and begins with one of the first two.", param="name"
        )
    if taken(name):
        raise InvalidParameter("There is a key of this name. Remove it first, or choose another.", param="name")
    if not wanted or not wanted.issubset(Scope):
        raise InvalidParameter(f"scopes may be: {', '.join(Scope)}.", param="scopes")
    if expires_in_s is not None and expires_in_s > MAX_SPAN_S:
        raise InvalidParameter(
            f"expires_in_s must be at most {MAX_SPAN_S:,.0f}: a hundred years.", param="expires_in_s"
        )
    if len(models) > MAX_MODELS or not all(map(MODEL.fullmatch, models)):
        raise InvalidParameter(
            f"models are at most {MAX_MODELS} names of 1 to 256 characters, none of them control characters.",
            param="models",
        )
    if not 0 <= requests_per_minute <= MAX_PER_MINUTE:
        raise InvalidParameter(f"requests_per_minute may be 0 to {MAX_PER_MINUTE:,}.", param="requests_per_minute")
    now_s = float(int(time.time()))  # as exact as the database has it
    while True:
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        key = ApiKey(
            digest=digest(secret),
            name=name,
            scopes=frozenset(map(Scope, wanted)),
            models=models,
            requests_per_minute=requests_per_minute,
            created_s=now_s,
            expires_s=None if expires_in_s is None else now_s + expires_in_s,
        )
        if not taken(key.id):
            return secret, key


def shown(key: ApiKey, usage: Usage) -> dict[str, Any]:
    """A key as an admin sees it. Times are Unix seconds."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "models": list(key.models),
        "requests_per_minute": key.requests_per_minute,
        "created_s": key.created_s,
        "expires_s": key.expires_s,
        "expired": key.expired(time.time()),
        **asdict(usage),
    }


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

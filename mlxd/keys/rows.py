"""Keys and signed-in browsers as rows. Everything here blocks and is for a thread of its own, or for a command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from mlxd.keys.browsers import IDLE_S, Browser
from mlxd.keys.key import ApiKey, Scope, Usage
from mlxd.ledger import models
from mlxd.ledger.rows import moment

USAGE = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


def stored_keys() -> Iterator[tuple[ApiKey, Usage]]:
    """All of them. A scope that this version does not know opens nothing."""
    for row in models.Key.objects.order_by("created_at"):
        scopes = frozenset(Scope(word) for word in row.scopes.split(",") if word in Scope)
        key = ApiKey(
            digest=bytes(row.digest),
            name=row.name,
            scopes=scopes,
            models=tuple(map(str, json.loads(row.allowed_models))),
            requests_per_minute=row.requests_per_minute,
            created_s=row.created_at.timestamp(),
            expires_s=_seconds(row.expires_at),
        )
        usage = Usage(**{name: getattr(row, name) for name in USAGE}, last_used_s=_seconds(row.last_used_at))
        yield key, usage


def insert_key(key: ApiKey) -> None:
    """Raises `IntegrityError` where there is one of its name or id."""
    models.Key(
        id=key.id,
        digest=key.digest,
        name=key.name,
        scopes=",".join(sorted(key.scopes)),
        allowed_models=json.dumps(key.models),
        requests_per_minute=key.requests_per_minute,
        created_at=moment(key.created_s),
        expires_at=None if key.expires_s is None else moment(key.expires_s),
    ).save(force_insert=True)


def delete_key(key_id: str) -> None:
    models.Key.objects.filter(id=key_id).delete()


def write_usage(usages: Mapping[str, Usage]) -> None:
    """Totals; a key that is gone is left out."""
    for key_id, usage in usages.items():
        last = None if usage.last_used_s is None else moment(usage.last_used_s)
        figures = {name: getattr(usage, name) for name in USAGE}
        models.Key.objects.filter(id=key_id).update(**figures, last_used_at=last)


def stored_browsers(now_s: float) -> list[Browser]:
    """Those that were not idle for too long; the others are forgotten."""
    models.BrowserSession.objects.filter(seen_at__lt=moment(now_s - IDLE_S)).delete()
    rows = models.BrowserSession.objects.all()
    return [Browser(bytes(row.digest), row.created_at.timestamp(), row.seen_at.timestamp()) for row in rows]


def write_browser(browser: Browser) -> None:
    times = {"created_at": moment(browser.created_s), "seen_at": moment(browser.seen_s)}
    models.BrowserSession.objects.update_or_create(digest=browser.digest, defaults=times)


def delete_browsers(digests: Sequence[bytes]) -> None:
    models.BrowserSession.objects.filter(digest__in=digests).delete()


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()

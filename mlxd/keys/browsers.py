"""Browsers that an admin opened: what their cookie holds is kept as a digest, and good until it was idle for long.

The digest is keyed with that of the admin token, so a new token closes them all, whatever else happens. It lives on the
event loop, like the keys.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from mlxd.keys.keyring import KeysUnavailable

IDLE_S: Final = 12 * 3600.0
SEEN_S: Final = 600.0
"""So often it is written down that a browser is still used. A restart may find it that much older."""
MAX_BROWSERS: Final = 64
COOKIE_BYTES: Final = 32

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Browser:
    """One that is signed in. Times are Unix seconds."""

    digest: bytes
    created_s: float
    seen_s: float


class BrowserShelf(Protocol):
    """Where browsers outlive the process. Everything here raises `KeysUnavailable`."""

    async def browser_seen(self, browser: Browser) -> None:
        """Writes a browser down, a new one or again."""

    async def browsers_closed(self, digests: Iterable[bytes]) -> None: ...


class Browsers:
    """Without a shelf, or while it is out, they are signed in until the process ends."""

    def __init__(self, shelf: BrowserShelf | None = None, kept: Iterable[Browser] = ()) -> None:
        self._shelf = shelf
        self._open: Mapping[bytes, Browser] = {browser.digest: browser for browser in kept}
        self._written = dict.fromkeys(self._open, 0.0)
        self._writing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def sign_in(self, token: bytes, now_s: float) -> str:
        """What the cookie is to hold. `token` is the digest of the admin token. The one idle longest makes room."""
        cookie = secrets.token_urlsafe(COOKIE_BYTES)
        browser = Browser(_digest(token, cookie), now_s, now_s)
        newest = sorted(self._open.values(), key=lambda one: -one.seen_s)[: MAX_BROWSERS - 1]
        gone = self._open.keys() - {one.digest for one in newest}
        self._open = {one.digest: one for one in (browser, *newest)}
        await self._write(browser)
        await self._closed(gone)
        return cookie

    def knows(self, token: bytes, cookie: str, now_s: float) -> bool:
        """Whether a cookie is that of a browser that was not idle for too long. It is not idle now."""
        browser = self._open.get(_digest(token, cookie))
        if browser is None or now_s - browser.seen_s > IDLE_S:
            return False
        seen = Browser(browser.digest, browser.created_s, max(now_s, browser.seen_s))
        self._open = {**self._open, seen.digest: seen}
        if now_s - self._written.get(seen.digest, 0.0) > SEEN_S:
            self._written[seen.digest] = now_s
            task = asyncio.get_running_loop().create_task(self._write(seen))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        return True

    async def sign_out(self, token: bytes, cookie: str) -> None:
        digest = _digest(token, cookie)
        self._open = {at: one for at, one in self._open.items() if at != digest}
        await self._closed({digest})

    async def sign_all_out(self) -> int:
        """How many there were."""
        gone, self._open = self._open, {}
        await self._closed(gone)
        return len(gone)

    async def _write(self, browser: Browser) -> None:
        self._written[browser.digest] = browser.seen_s
        try:
            if self._shelf is not None:
                await self._shelf.browser_seen(browser)
        except KeysUnavailable as error:
            log.warning("browser_not_written", reason=error.message)

    async def _closed(self, digests: Iterable[bytes]) -> None:
        for digest in (gone := tuple(digests)):
            self._written.pop(digest, None)
        try:
            if self._shelf is not None and gone:
                await self._shelf.browsers_closed(gone)
        except KeysUnavailable as error:
            log.warning("browser_not_written", reason=error.message)


def csrf_of(token: bytes, cookie: str) -> str:
    """What a page of a signed-in browser sends along with every write. `token` is the digest of the admin token, so
    who has the cookie alone cannot make it; it is told once, in the answer to the login."""
    return hmac.digest(token, b"mlxd csrf\0" + cookie.encode("utf-8", "surrogateescape"), "sha256").hex()


def _digest(token: bytes, cookie: str) -> bytes:
    return hmac.digest(token, b"mlxd browser\0" + cookie.encode("utf-8", "surrogateescape"), "sha256")

"""The keys of a process, looked up in memory: no request waits for the disk to learn who asks.

It lives on the event loop. A change is on the disk before it counts, and counts from then on for every request. What
keys were used for is written a few seconds later, and when the process ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from inference.errors import BusyError
from mlxd.keys.key import ApiKey, Scope, Usage
from mlxd.keys.pace import Pace
from mlxd.ledger.record import GenerationRecord

FLUSH_S: Final = 5.0
"""A process that is killed forgets the use of so many seconds, and no key."""

log = structlog.get_logger(__name__)


class KeysUnavailable(BusyError):
    """The disk does not take the change. Nothing was changed."""

    code = "keys_unavailable"


class KeyShelf(Protocol):
    """Where keys outlive the process. Everything here raises `KeysUnavailable`."""

    async def add(self, key: ApiKey) -> None: ...

    async def remove(self, key_id: str) -> None: ...

    async def used(self, usages: Mapping[str, Usage]) -> None: ...

    def close(self, usages: Mapping[str, Usage]) -> None:
        """Writes what is left. Blocks for seconds at most."""


class Keyring:
    """Without a shelf it forgets everything at the end of the process."""

    def __init__(self, shelf: KeyShelf | None = None, kept: Iterable[tuple[ApiKey, Usage]] = ()) -> None:
        rows = tuple(kept)
        self._shelf = shelf
        self._by_digest: Mapping[bytes, ApiKey] = MappingProxyType({key.digest: key for key, _ in rows})
        self._usages = {key.id: usage for key, usage in rows}
        self._paces: dict[str, Pace] = {}
        self._unwritten: set[str] = set()
        self._flushing: asyncio.TimerHandle | asyncio.Task[None] | None = None

    def find(self, digest: bytes) -> ApiKey | None:
        """The key of a digest, also where it has expired."""
        return self._by_digest.get(digest)

    def named(self, name: str) -> ApiKey | None:
        """By its name or its id."""
        return next((key for key in self._by_digest.values() if name in (key.name, key.id)), None)

    def rows(self) -> list[tuple[ApiKey, Usage]]:
        """All keys with their use, the oldest first."""
        keys = sorted(self._by_digest.values(), key=lambda key: (key.created_s, key.name))
        return [(key, replace(self._usages[key.id])) for key in keys]

    def opens(self, scope: Scope) -> bool:
        """Whether a key of this scope is good now."""
        now_s = time.time()
        return any(scope in key.scopes and not key.expired(now_s) for key in self._by_digest.values())

    async def add(self, key: ApiKey) -> None:
        if self._shelf is not None:
            await self._shelf.add(key)
        self._usages[key.id] = Usage()
        self._by_digest = MappingProxyType({**self._by_digest, key.digest: key})

    async def remove(self, key: ApiKey) -> None:
        """From here on its requests are refused; those that run end as they would have."""
        if self._shelf is not None:
            await self._shelf.remove(key.id)
        self._by_digest = MappingProxyType({at: one for at, one in self._by_digest.items() if one.id != key.id})
        for kept in (self._usages, self._paces):
            kept.pop(key.id, None)
        self._unwritten.discard(key.id)

    def admit(self, key: ApiKey) -> float:
        """Counts a request of a key. Seconds until it may come again where it is too many, else 0."""
        if key.requests_per_minute:
            pace = self._paces.setdefault(key.id, Pace(key.requests_per_minute))
            wait_s = pace.take(time.monotonic())
            if wait_s:
                return wait_s
        usage = self._usages[key.id]
        usage.requests, usage.last_used_s = usage.requests + 1, time.time()
        self._written_later(key.id)
        return 0.0

    def tally(self, record: GenerationRecord) -> None:
        """Adds what a generation cost; nothing where it was nobody's or its key is gone."""
        usage = self._usages.get(record.owner)
        if usage is None:
            return
        usage.prompt_tokens += record.usage.prompt_tokens
        usage.cached_tokens += record.usage.cached_tokens
        usage.completion_tokens += record.usage.completion_tokens
        self._written_later(record.owner)

    def close(self) -> None:
        """Writes what is left, once the loop has ended."""
        if self._shelf is not None:
            self._shelf.close(self._taken())

    def _written_later(self, key_id: str) -> None:
        self._unwritten.add(key_id)
        if self._shelf is not None and self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self._begin_flush, self._shelf)

    def _begin_flush(self, shelf: KeyShelf) -> None:
        self._flushing = asyncio.get_running_loop().create_task(self._flush(shelf))

    async def _flush(self, shelf: KeyShelf) -> None:
        taken, self._flushing = self._taken(), None
        try:
            await shelf.used(taken)
        except KeysUnavailable as error:
            self._unwritten |= taken.keys() & self._usages.keys()  # with the next use
            log.warning("key_usage_not_written", reason=error.message)

    def _taken(self) -> dict[str, Usage]:
        """What has changed since it was taken last. Totals, not differences: written twice, it is the same."""
        taken = {key_id: replace(self._usages[key_id]) for key_id in self._unwritten}
        self._unwritten = set()
        return taken

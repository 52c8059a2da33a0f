"""Who is connected: all open connections, and how many each address holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlxd.transport.deadlines import Phase
from mlxd.transport.limits import TransportLimits

if TYPE_CHECKING:
    from mlxd.transport.channel import Channel


class Census:
    """The set of open connections. Refused ones are in it until they are gone: they hold a descriptor too."""

    def __init__(self, limits: TransportLimits) -> None:
        self._limits = limits
        self._channels: set[Channel] = set()
        self._per_ip: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        """Over a copy, since whoever looks at a connection may end it."""
        return iter(list(self._channels))

    def opened(self, channel: Channel) -> bool:
        """Register a connection; False when it is one too many and must be refused."""
        host = channel.peer_host()
        is_full = len(self) >= self._limits.connections
        is_crowded = len(self) >= self._limits.connections_unmetered
        has_enough = self._per_ip[host] >= self._limits.connections_per_ip
        self._channels.add(channel)
        self._per_ip[host] += 1
        return not is_full and not (is_crowded and has_enough)

    def closed(self, channel: Channel) -> None:
        """Forget a connection. Idempotent."""
        if channel not in self._channels:
            return
        self._channels.discard(channel)
        host = channel.peer_host()
        self._per_ip[host] -= 1
        if not self._per_ip[host]:
            del self._per_ip[host]

    def may_linger(self) -> bool:
        """Whether one more refused connection can be seen off politely."""
        lingering = sum(channel.progress.phase is Phase.LINGERING for channel in self._channels)
        return lingering < self._limits.lingering_refused

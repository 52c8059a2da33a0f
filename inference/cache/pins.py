"""Beginnings that stay in memory though nobody uses them just now, within a part of what conversations may have.

A pin is a lock like that of a running row. So it gives way only to a device that is full, and to orders; what has gone
so is not pinned any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from inference.cache.node import Node, Snapshot
from inference.cache.states import states_on
from inference.cache.store import Store
from inference.prefix_store import Pinned

PINNED_SHARE: Final = 0.25
"""Of the budgets for blocks and for recurrent states."""


@dataclass(slots=True)
class _Pin:
    tip: Node
    states: list[Snapshot] = field(default_factory=list)


class Pins:
    """By the name of the session whose last request ended where the pin holds on. On the thread of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[str, _Pin] = {}

    def pin(self, session: str) -> Pinned | None:
        """Holds on to where a session's last request ended; None where nothing is known of it, or there is no room."""
        known = self._store.sessions.get(session)
        tips = [] if known is None else [entry for entry in known.entries if entry.attached]
        if not tips:
            return None
        self.unpin(session)
        tip, limits = tips[-1], self._store.limits
        path = [*reversed(list(tip.upwards()))]
        if self._nbytes([*(pin.tip for pin in self._held.values()), tip]) > limits.budget_bytes * PINNED_SHARE:
            return None
        states = states_on(path)[-1:]
        state_bytes = sum(state.nbytes for pin in self._held.values() for state in pin.states)
        if state_bytes + sum(state.nbytes for state in states) > limits.snapshot_budget_bytes * PINNED_SHARE:
            states = []
        pin = self._held[session] = _Pin(tip, states)
        _lock(pin, 1)
        return self._told(session, pin)

    def unpin(self, session: str) -> None:
        """Lets go. What nobody else needs is then the first to go."""
        if (pin := self._held.pop(session, None)) is not None:
            _lock(pin, -1)

    def told(self) -> tuple[Pinned, ...]:
        """What is still held."""
        self.prune()
        return tuple(self._told(session, pin) for session, pin in self._held.items())

    def prune(self) -> None:
        """Lets go of what has left the store all the same: its arrays would stay in memory, counted by nobody."""
        for session in [session for session, pin in self._held.items() if not pin.tip.attached]:
            self.unpin(session)

    def _told(self, session: str, pin: _Pin) -> Pinned:
        return Pinned(session, pin.tip.end, self._nbytes([pin.tip]) + sum(state.nbytes for state in pin.states))

    @staticmethod
    def _nbytes(tips: Iterable[Node]) -> int:
        """Of all blocks up to these, each part counted once."""
        nodes = {node for tip in tips if tip.attached for node in tip.upwards()}
        parts = {part for node in nodes if node.handle is not None for part in node.handle.parts}
        return sum(part.nbytes for part in parts)


def _lock(pin: _Pin, count: int) -> None:
    pin.tip.locks += count
    for state in pin.states:
        state.locks += count

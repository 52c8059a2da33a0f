"""What each session's conversations stand on. What several share counts for each of them."""

from __future__ import annotations

from dataclasses import dataclass

from inference.cache.node import Node
from inference.cache.sessions import Session, Sessions

MOST = 64
"""Sessions told of, the last used ones: 64 of 100,000 tokens each took 11 ms to add up."""


@dataclass(frozen=True, slots=True)
class SessionUse:
    """`branches` are ends of requests that none goes on from. `nbytes` is device memory, `snapshot_bytes` beside it."""

    session: str
    model: str
    branches: int
    tokens: int
    nbytes: int
    snapshot_bytes: int
    last_used_s: float


def session_uses(sessions: Sessions) -> tuple[SessionUse, ...]:
    """The last used first."""
    return tuple(_use(session) for session in sessions.recent(MOST))


def _use(session: Session) -> SessionUse:
    nodes: set[Node] = set()
    for entry in session.entries:
        for node in entry.upwards():
            if node in nodes:
                break
            nodes.add(node)
    parts = {part for node in nodes if node.handle is not None for part in node.handle.parts}
    return SessionUse(
        session=session.name,
        model=session.root.model,
        branches=len(session.entries),
        tokens=sum(part.tokens for part in parts),
        nbytes=sum(part.nbytes for part in parts),
        snapshot_bytes=sum(held.nbytes for node in nodes for held in node.snapshots.values()),
        last_used_s=session.last_used_s,
    )

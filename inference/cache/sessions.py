"""Where the requests of each session end in the tree: what the limits per session are counted by.

An entry is the end of one request's path. A request that goes on from an entry takes its place; one that branches off
adds its own. A one-shot leaves an entry only where there is none yet, for it may be the first turn of a conversation;
if what comes next does not go on from it, it was a side call, and its entry goes. Where side calls ended is kept aside:
it is no part of the conversation, and goes when the session is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from inference.cache.blocks import Root
from inference.cache.node import Node

MAX_KNOWN = 20_000
"""About a kilobyte each. The least recently used is no session any more; what it read stays."""
MAX_ASIDE = 256
"""Of a session's side calls the last ones."""


@dataclass(slots=True)
class Session:
    """`entries` oldest first; `root` is where its last request was. `unsure`: its only entry is that of a one-shot.

    `end` names the block at which the last request ended, also when it has left memory since. Side calls ended `aside`.
    """

    name: str
    root: Root
    last_used_s: float
    entries: list[Node] = field(default_factory=list)
    unsure: bool = False
    end: bytes = b""
    aside: dict[Node, None] = field(default_factory=dict)

    @property
    def ways(self) -> list[Node]:
        """Where its conversation may have ended: while nobody knows which of its one-shots is the first turn, any."""
        return [*self.aside, *self.entries] if self.unsure else self.entries


class Sessions:
    """Sessions by name, least recently used first. Requests without a session are not known here."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._aside: dict[Node, set[str]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: str) -> Session | None:
        return self._sessions.get(name)

    def recent(self, most: int) -> list[Session]:
        """The last used first."""
        return list(islice(reversed(self._sessions.values()), most))

    def seen(self, name: str, root: Root, now_s: float) -> None:
        if not name:
            return
        session = self._sessions.pop(name, None) or Session(name, root, now_s)
        session.root, session.last_used_s = root, now_s
        self._sessions[name] = session
        while len(self) > MAX_KNOWN:
            self.forget(next(iter(self._sessions)))

    def ended(self, name: str, tip: Node, *, one_shot: bool = False) -> None:
        """A request of a known session ended at `tip`."""
        session = self._sessions.get(name)
        if session is None or tip.parent is None:
            return
        if one_shot and session.entries and not session.unsure:
            self._put_aside(session, tip)
            return
        before = set(tip.upwards())
        for entry in [entry for entry in session.entries if session.unsure or entry in before]:
            self._drop(session, entry)
            if entry not in before:
                self._put_aside(session, entry)
        session.unsure = one_shot
        session.entries.append(tip)
        session.end = tip.digest
        tip.tips.add(name)

    def left(self, node: Node) -> None:
        """`node` is not in the tree any more: what ended there now ends where the tree does."""
        names, node.tips = node.tips, set()
        heir = next((before for before in node.upwards() if before.attached), None)
        for name in tuple(self._aside.get(node, ())):
            self._take_from_aside(self._sessions[name], node)
            if heir is not None:
                self._put_aside(self._sessions[name], heir)
        for name in names:
            session = self._sessions[name]
            at = session.entries.index(node)
            if heir is None or heir in session.entries:
                del session.entries[at]
            else:
                session.entries[at] = heir
                heir.tips.add(name)

    def over(self, name: str, max_entries: int) -> list[Node]:
        """Takes a session's oldest entries beyond `max_entries` off the books."""
        session = self._sessions.get(name)
        if session is None or max_entries == 0:
            return []
        gone = session.entries[: max(0, len(session.entries) - max_entries)]
        for entry in gone:
            self._drop(session, entry)
        return gone

    def forget(self, name: str) -> list[Node]:
        """Takes a session off the books; returns where its requests and side calls ended."""
        session = self._sessions.pop(name, None)
        if session is None:
            return []
        for entry in session.entries:
            entry.tips.discard(name)
        aside = tuple(session.aside)
        for node in aside:
            self._take_from_aside(session, node)
        return [*session.entries, *aside]

    def beyond(self, max_sessions: int) -> list[str]:
        """The least recently used sessions above a number (0: none). Those of one-shots alone hold no conversation."""
        if not 0 < max_sessions < len(self):
            return []
        lasting = [session.name for session in self._sessions.values() if not session.unsure]
        return lasting[: max(0, len(lasting) - max_sessions)]

    @property
    def oldest_s(self) -> float | None:
        """When the least recently used session had its last request."""
        return next((session.last_used_s for session in self._sessions.values()), None)

    def idle_since(self, moment_s: float) -> list[str]:
        """Sessions that had no request after `moment_s`."""
        names = []
        for session in self._sessions.values():
            if session.last_used_s > moment_s:
                break
            names.append(session.name)
        return names

    def _put_aside(self, session: Session, tip: Node) -> None:
        session.aside[tip] = None
        self._aside.setdefault(tip, set()).add(session.name)
        if len(session.aside) > MAX_ASIDE:
            self._take_from_aside(session, next(iter(session.aside)))

    def _take_from_aside(self, session: Session, node: Node) -> None:
        del session.aside[node]
        self._aside[node].discard(session.name)
        if not self._aside[node]:
            del self._aside[node]

    @staticmethod
    def _drop(session: Session, entry: Node) -> None:
        session.entries.remove(entry)
        entry.tips.discard(session.name)

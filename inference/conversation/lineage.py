"""Sessions as a tree of turns: which earlier turn a request goes on from, decided by content alone.

A turn is one request and its answers. It knows its history as a chain of hashes, one for each message, so that the
hash at position i stands for everything up to it; a request finds its parent by looking its own chain up from the deep
end. Ids that clients send group turns into sessions and never decide parenthood: sub-agents, titles and summaries come
under the id of the conversation they serve.

The guard: a line is a run of turns of which each strictly extends the one before. Its tip moves only to a turn that
was placed behind that very tip; whoever comes second, or from elsewhere, begins a line of its own. So nothing that a
sub-agent does changes what its orchestrator finds.

Not for several threads at once: it lives on the event loop.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from inference.conversation.lineage_memory import LineageMemory
from inference.conversation.turn_chain import Asked, Edge, Placed, Turn, after, chain

RESUME_AFTER_S = 3600.0
"""A line that goes on after so long was put away and taken up again."""

MAX_TURNS = 10_000
"""About a kilobyte each. A turn that fell out is no parent any more; nothing else depends on it."""

MAX_TWINS = 16
"""Where more turns than this end in the same words, nobody knows which of them a request goes on from."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What of a request's chain is known: how many of its messages and through whom, and whom it strictly extends.

    `memories` has what that one remembers, or nothing where turns that are the same in content remember other things.
    """

    messages: int = 0
    through: Turn | None = None
    parent: Turn | None = None
    memories: tuple[LineageMemory, ...] = ()


class Lineage:
    """The finished turns of all sessions, newest last; the oldest are forgotten above `max_turns`."""

    def __init__(self, *, max_turns: int = MAX_TURNS) -> None:
        self._max_turns = max_turns
        self._turns: OrderedDict[str, Turn] = OrderedDict()
        self._through: dict[bytes, str] = {}  # a point in a history -> the first turn that went through it
        self._ends: dict[bytes, list[str]] = {}  # the point behind an answer -> the turns that end there
        self._tips: dict[str, str] = {}  # line -> its last turn
        self._sessions: dict[tuple[str, str], OrderedDict[str, None]] = {}  # its lines, the last moved one last
        self._restored: set[str] = set()

    def __len__(self) -> int:
        return len(self._turns)

    def turn(self, turn_id: str) -> Turn | None:
        return self._turns.get(turn_id)

    def knows(self, owner: str, session: str) -> bool:
        """Whether a session of this owner has a turn."""
        return (owner, session) in self._sessions

    def tip(self, line: str) -> Turn | None:
        """The last turn of a line."""
        return self._turns.get(self._tips.get(line, ""))

    def place(self, asked: Asked) -> Placed:
        """Where a request stands in the tree. Changes nothing: it may still fail, or be sent again."""
        hashes = chain(asked.owner, asked.digests)
        known = self._known(asked, hashes)
        session = asked.session or secrets.token_hex(16)
        if known.parent is not None and not asked.named:
            session = known.parent.session
        edge, beside = self._edge(asked, hashes, known, session)
        return Placed(asked, hashes, session, edge, known.messages, known.parent, beside, known.memories)

    def commit(self, placed: Placed, answers: Sequence[bytes]) -> Turn:
        """Records a finished turn. `answers` are the digests of what was answered, one for each choice."""
        parent, edge = placed.parent, placed.edge
        if edge.advances and parent is not None and self._tips.get(parent.line, parent.id) != parent.id:
            edge = Edge.BRANCH  # another request went on from the same turn and was done first
        turn_id = secrets.token_hex(16)
        turn = Turn(
            id=turn_id,
            session=placed.session,
            owner=placed.asked.owner,
            line=parent.line if edge.advances and parent is not None else turn_id,
            parent=parent.id if parent else None,
            beside=placed.beside.id if placed.beside else None,
            edge=edge,
            known_messages=placed.known_messages,
            messages=len(placed.hashes),
            hashes=placed.hashes[_found_elsewhere(placed) :],
            ends=tuple(after(placed.hashes[-1], answer) for answer in answers),
            head=placed.head,
            tools=placed.asked.tools,
            at_s=placed.asked.at_s,
            memory=placed.memory,
        )
        self._add(turn)
        return turn

    def forget(self, session: str) -> int:
        """Lets go of a session's turns, whoever asked for them; how many there were."""
        doomed = [turn for turn in self._turns.values() if turn.session == session]
        for turn in doomed:
            self._forget(turn)
        return len(doomed)

    def restore(self, turns: Iterable[Turn]) -> None:
        """Takes in turns of an earlier process, oldest first."""
        for turn in turns:
            self._add(turn)
            self._restored.add(turn.id)

    def _known(self, asked: Asked, hashes: tuple[bytes, ...]) -> _Known:
        known = _Known()
        for messages in range(len(hashes), 0, -1):
            point = hashes[messages - 1]
            if not known.messages and (found := self._through.get(point)) is not None:
                known = _Known(messages, self._turns[found])
            ended = self._ends.get(point)
            if ended:
                session = asked.session if asked.named else ""
                ender = self._nearest(ended, session)
                if not known.messages:
                    known = _Known(messages, ender)
                if messages < len(hashes):  # strictly: an answer to be continued is no new turn behind itself
                    return replace(known, parent=ender, memories=self._agreed(ender, ended, session))
        return known

    def _nearest(self, turn_ids: Sequence[str], session: str) -> Turn:
        """Of turns that are the same in content: the latest of that session, else the latest."""
        return self._twins(turn_ids, session)[-1]

    def _agreed(self, ender: Turn, turn_ids: Sequence[str], session: str) -> tuple[LineageMemory, ...]:
        """What a turn remembers, if all that a request could go on from in its stead are of one reading with it."""
        twins = self._twins(turn_ids, session)
        sure = len(twins) <= MAX_TWINS and all(ender.memory.same_reading(twin.memory) for twin in twins)
        return (ender.memory,) if sure else ()

    def _twins(self, turn_ids: Sequence[str], session: str) -> list[Turn]:
        """Of turns that are the same in content those of that session, else all."""
        turns = [self._turns[turn_id] for turn_id in turn_ids]
        return [turn for turn in turns if turn.session == session] or turns

    def _edge(self, asked: Asked, hashes: tuple[bytes, ...], known: _Known, session: str) -> tuple[Edge, Turn | None]:
        parent, through = known.parent, known.through
        if parent is None:
            return self._apart(asked, hashes, known, session)
        if through is not None and known.messages > parent.messages + 1:
            return Edge.EDIT, through  # it goes along with a later turn, and then another way
        if self._tips.get(parent.line, parent.id) != parent.id:
            return Edge.BRANCH, self.tip(parent.line)
        if parent.tools and not asked.tools:
            return Edge.COMPACTION, parent
        late = asked.at_s - parent.at_s > RESUME_AFTER_S
        return (Edge.RESUME if late or parent.id in self._restored or parent.session != session else Edge.EXTEND), None

    def _apart(self, asked: Asked, hashes: tuple[bytes, ...], known: _Known, session: str) -> tuple[Edge, Turn | None]:
        """The edge of a request that goes on from no answer."""
        beside = self._latest(asked, session)
        if asked.one_shot and asked.named and beside is not None:
            return Edge.SIDE_CALL, beside
        through = known.through  # without a common session two beginnings that are alike are two beginnings
        if through is not None and through.session == session and known.messages > asked.heads:
            return Edge.EDIT, through
        if beside is None:
            return Edge.START, None
        head = hashes[asked.heads - 1] if asked.heads else b""
        rebuilt = beside.head == head and beside.tools == asked.tools and len(hashes) < beside.messages
        return (Edge.COMPACTION if rebuilt else Edge.BRANCH), beside

    def _latest(self, asked: Asked, session: str) -> Turn | None:
        """The tip that moved last in a session. To a request with tools those without are side calls."""
        for line in reversed(self._sessions.get((asked.owner, session), {})):
            tip = self.tip(line)
            if tip is not None and tip.edge is not Edge.SIDE_CALL and (tip.tools or not asked.tools):
                return tip
        return None

    def _add(self, turn: Turn) -> None:
        self._turns[turn.id] = turn
        for point in turn.hashes:
            self._through.setdefault(point, turn.id)
        for point in dict.fromkeys(turn.ends):
            self._ends.setdefault(point, []).append(turn.id)
        self._tips[turn.line] = turn.id
        lines = self._sessions.setdefault((turn.owner, turn.session), OrderedDict())
        lines[turn.line] = None
        lines.move_to_end(turn.line)
        while len(self._turns) > self._max_turns:
            self._forget(next(iter(self._turns.values())))

    def _forget(self, turn: Turn) -> None:
        del self._turns[turn.id]
        self._restored.discard(turn.id)
        for point in turn.hashes:
            if self._through.get(point) == turn.id:
                del self._through[point]
        for point in dict.fromkeys(turn.ends):
            self._ends[point].remove(turn.id)
            if not self._ends[point]:
                del self._ends[point]
        if self._tips.get(turn.line) == turn.id:
            del self._tips[turn.line]
            lines = self._sessions[turn.owner, turn.session]
            lines.pop(turn.line, None)
            if not lines:
                del self._sessions[turn.owner, turn.session]


def _found_elsewhere(placed: Placed) -> int:
    """Of how many messages the points need not be kept with a turn, for the turn it names keeps them.

    One that only begins like somebody's names nobody, and keeps all; so does the point of an answer that was one of
    several.
    """
    if placed.edge is Edge.EDIT and placed.beside is not None:
        return placed.known_messages
    if placed.parent is None:
        return 0
    return placed.known_messages if len(placed.parent.ends) == 1 else placed.parent.messages

"""Knows the turns the model spoke, and recognises them when a client sends them back.

A turn with calls is found by the id of its first call, which nobody else was given. A turn without is found by the
whole history before it and its text: text alone picks the wrong turn (of 75 recorded ones, 36 had a twin). Where
several turns fit and their ids differ, none is taken.

The history counts a recognised turn as the model spoke it, so it stays the same when a client trims or drops something
of it later. What drifts is no part of it: neither a date in the instructions nor a message that will not come again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inference.conversation.canonical import Prefix, bare_id
from inference.conversation.echo import Outcome, compared, named
from inference.conversation.meaning import Meaning, said_digest, with_thought
from inference.conversation.sentinels import Text
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.conversation.turns import Call, Turn, line_feeds
from inference.messages import Role, Tool, ToolCall

MAX_TURNS = 2000
MAX_BYTES = 128 << 20
MAX_TWINS = 8
"""Turns kept of one history: a client may ask the same again and again."""
MAX_SESSIONS = 256
"""Known to have said something at one place: a probe that asks the same each second is a new session each time."""

Place = bytes
"""Where a turn is looked for: the digest of its scope and the id of its first call, or of the history before it."""

type Seek = Callable[[Place], Sequence[SpokenTurn]]
"""What else is known of a place that is not in the store; the latest turn last."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and where an echo of it will be looked for."""

    place: Place
    turn: SpokenTurn


@dataclass(frozen=True, slots=True)
class Recognised:
    """A conversation's assistant messages, by number. `prefix` is all of it: what the next answer will stand behind.

    `digests` has one for each message, as `Meaning.digests`; that of a recognised turn is what the model spoke. `raw`
    has the ids of the turns that are to be rendered as the model spoke them.
    """

    scope: str
    prefix: Prefix
    digests: tuple[bytes, ...] = ()
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    raw: Mapping[int, RawTurn] = field(default_factory=dict)


class HealingStore:
    """Bounded by turns and bytes, least recently used out first. Safe to use from any thread; values are frozen."""

    def __init__(self, max_turns: int = MAX_TURNS, max_bytes: int = MAX_BYTES) -> None:
        self._max_turns = max_turns
        self._max_bytes = max_bytes
        self._turns: OrderedDict[Place, tuple[SpokenTurn, ...]] = OrderedDict()
        self._sessions: dict[Place, set[str]] = {}
        self._count = self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def max_turns(self) -> int:
        return self._max_turns

    @property
    def nbytes(self) -> int:
        return self._bytes

    @property
    def counts(self) -> dict[str, int]:
        """How often each outcome was given since the start, and what else was counted."""
        with self._lock:
            return dict(self._counts)

    def count(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            self._counts.update(counts)

    def remember(self, scope: str, before: Prefix, turn: SpokenTurn, session: str = "") -> Place | None:
        """Keeps a finished turn that was the answer to `before` in `session`; its place. One that said nothing could
        not be told apart, and is not kept."""
        if not self._max_turns or not (turn.calls or turn.text.strip()):
            return None
        place = place_of(scope, before, turn.calls)
        self._add(place, (turn,), session)
        return place

    def restore(self, place: Place, turns: Sequence[SpokenTurn]) -> bool:
        """Takes in the turns of a place as those that go first. False: there is no room for more."""
        with self._lock:
            nbytes = self._bytes + sum(turn.nbytes for turn in turns)
            if self._count + len(turns) > self._max_turns or nbytes > self._max_bytes:
                return False
            if turns and place not in self._turns:
                self._put(place, tuple(turns)[-MAX_TWINS:])
                self._turns.move_to_end(place, last=False)
        return True

    def forget(self, place: Place, turns: Collection[SpokenTurn]) -> None:
        """Lets go of these turns of a place."""
        with self._lock:
            kept = tuple(turn for turn in self._turns.get(place, ()) if turn not in turns)
            self._put(place, kept) if kept else self._let_go(place)

    def forget_session(self, session: str) -> int:
        """Lets go of all that is remembered of places where this session said something; how many turns. Another one
        that said something at the very same place may still find it on the disk."""
        with self._lock:
            places = [place for place, sessions in self._sessions.items() if session in sessions]
            before = self._count
            for place in places:
                self._let_go(place)
            return before - self._count

    def recognise(self, scope: str, meaning: Meaning, *, counted: bool = True, seek: Seek | None = None) -> Recognised:
        """Which messages are echoes. `scope` names the model and who may share; what `seek` finds is kept from now."""
        tools = named(meaning.conversation.tools)
        prefix = Prefix.of(scope, meaning.tools)
        outcomes: dict[int, Outcome] = {}
        raw: dict[int, RawTurn] = {}
        digests: list[bytes] = []
        for turn, digest in zip(meaning.turns, meaning.digests, strict=True):
            thought = "".join(part.text for part in turn.reasoning)
            if turn.role is Role.ASSISTANT:
                outcome, spoken = self._recognised(place_of(scope, prefix, turn.calls), turn, tools, seek)
                outcomes[turn.message] = outcome
                if spoken is not None:
                    raw[turn.message], thought = spoken.raw, line_feeds(spoken.reasoning, Counter())
                    digest = said_digest(as_spoken(turn, spoken)) if outcome is Outcome.HEALED_NORMALISED else digest
            digests.append(digest)
            if turn.message not in meaning.passing:
                prefix = prefix.then(with_thought(digest, thought))
        if counted:
            self.count(Counter(outcome.value for outcome in outcomes.values()))
        return Recognised(scope, prefix, tuple(digests), outcomes, raw)

    def _recognised(
        self, place: Place, turn: Turn, tools: Mapping[str, Tool], seek: Seek | None
    ) -> tuple[Outcome, SpokenTurn | None]:
        found = self._at(place) or self._sought(place, seek)
        verdicts = [(compared(turn, spoken, tools), spoken) for spoken in found]
        fitting = [one for one in verdicts if one[0] is not Outcome.REFUSED_EDITED]
        if not fitting:
            return (Outcome.REFUSED_EDITED if found else Outcome.NOT_FOUND), None
        same = [one for one in fitting if one[0] is not Outcome.HEALED_NORMALISED] or fitting
        if len({spoken.raw for _, spoken in same}) > 1:
            return Outcome.NOT_FOUND, None
        return same[-1]

    def _at(self, place: Place) -> tuple[SpokenTurn, ...]:
        with self._lock:
            found = self._turns.get(place)
            if found is None:
                return ()
            self._turns.move_to_end(place)
            return found

    def _sought(self, place: Place, seek: Seek | None) -> tuple[SpokenTurn, ...]:
        found = tuple(seek(place)) if seek is not None and self._max_turns else ()
        if found:
            self._add(place, found)
        return found

    def _add(self, place: Place, turns: tuple[SpokenTurn, ...], session: str = "") -> None:
        with self._lock:
            kept = self._turns.get(place, ())
            if new := tuple(turn for turn in turns if turn not in kept):
                self._put(place, (*kept, *new)[-MAX_TWINS:])
            self._turns.move_to_end(place)
            if session:
                self._name(place, turns, session)
            while len(self._turns) > 1 and (self._count > self._max_turns or self._bytes > self._max_bytes):
                self._let_go(next(iter(self._turns)))

    def _name(self, place: Place, turns: tuple[SpokenTurn, ...], session: str) -> None:
        """Says whose turns these are. Where that are too many, the others go with what they said."""
        said = self._sessions.setdefault(place, set())
        if len(said) >= MAX_SESSIONS and session not in said:
            said.clear()
            self._put(place, turns[-MAX_TWINS:])
        said.add(session)

    def _put(self, place: Place, turns: tuple[SpokenTurn, ...]) -> None:
        self._drop(place)
        self._turns[place] = turns
        self._count += len(turns)
        self._bytes += sum(turn.nbytes for turn in turns)

    def _let_go(self, place: Place) -> None:
        self._drop(place)
        self._sessions.pop(place, None)

    def _drop(self, place: Place) -> None:
        turns = self._turns.pop(place, ())
        self._count -= len(turns)
        self._bytes -= sum(turn.nbytes for turn in turns)


def place_of(scope: str, before: Prefix, calls: Sequence[Call] | Sequence[ToolCall]) -> Place:
    """A turn with calls is found by the first of them, wherever it stands; any other by what stands before it."""
    if not calls:
        return before.digest
    return hashlib.sha256(f"{scope}\0{bare_id(calls[0].id)}".encode("utf-8", "surrogatepass")).digest()


def as_spoken(turn: Turn, spoken: SpokenTurn) -> Turn:
    """The message as the model spoke it, whatever the client made of its text, reasoning and arguments."""
    calls = (Call(call.id, call.name, Text(call.arguments.replace("\r\n", "\n"))) for call in spoken.calls)
    text, reasoning = (Text(one.replace("\r\n", "\n")) for one in (spoken.text, spoken.reasoning))
    return replace(turn, parts=(text,), reasoning=(reasoning,), calls=tuple(calls))

"""Knows the turns the model spoke, and recognises them when a client sends them back.

A turn with calls is found by the id of its first call, which nobody else was given. A turn without is found by the
whole history before it and its text: text alone picks the wrong turn (of 75 recorded ones, 36 had a twin). Where
several turns fit and their ids differ, none is taken.

The history counts a recognised turn as the model spoke it, so it stays the same when a client trims or drops something
of it later.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from inference.conversation.canonical import Prefix, bare_id, message_digest
from inference.conversation.echo import Outcome, compared, named
from inference.conversation.sentinels import Text
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.conversation.turns import Call, ThinkTags, Turn, turns_of
from inference.messages import Conversation, Role, Tool

MAX_TURNS = 2000
MAX_BYTES = 128 << 20
MAX_TWINS = 8
"""Turns kept of one history: a client may ask the same again and again."""

Place = tuple[str, str] | Prefix
"""Where a turn is looked for: (scope, bare id of its first call), or the history before it."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A conversation's assistant messages, by number. `prefix` is all of it: what the next answer will stand behind.

    `digests` has one for each message. `raw` has the ids of the turns that are to be rendered as the model spoke them.
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
        self._count = self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

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

    def remember(self, scope: str, before: Prefix, turn: SpokenTurn) -> None:
        """Keeps a finished turn that was the answer to `before`. One that said nothing could not be told apart."""
        if not self._max_turns or not (turn.calls or turn.text.strip()):
            return
        place: Place = (scope, bare_id(turn.calls[0].id)) if turn.calls else before
        with self._lock:
            kept = self._turns.get(place, ())
            if turn in kept:
                self._turns.move_to_end(place)
                return
            self._put(place, (*kept, turn)[-MAX_TWINS:])
            while len(self._turns) > 1 and (self._count > self._max_turns or self._bytes > self._max_bytes):
                self._drop(next(iter(self._turns)))

    def recognise(
        self, scope: str, conversation: Conversation, think: ThinkTags | None = None, *, counted: bool = True
    ) -> Recognised:
        """Which messages are echoes. `scope` names the model and who may share; `think` are its template's tags."""
        tools = named(conversation.tools)
        prefix = Prefix.of(scope, conversation.tools)
        outcomes: dict[int, Outcome] = {}
        raw: dict[int, RawTurn] = {}
        digests: list[bytes] = []
        for turn in turns_of(conversation, think, Counter()):
            if turn.role is Role.ASSISTANT:
                outcome, spoken = self._recognised(scope, prefix, turn, tools)
                outcomes[turn.message] = outcome
                if spoken is not None:
                    raw[turn.message] = spoken.raw
                    turn = as_spoken(turn, spoken)
            digests.append(message_digest(turn))
            prefix = prefix.then(digests[-1])
        if counted:
            self.count(Counter(outcome.value for outcome in outcomes.values()))
        return Recognised(scope, prefix, tuple(digests), outcomes, raw)

    def _recognised(
        self, scope: str, prefix: Prefix, turn: Turn, tools: Mapping[str, Tool]
    ) -> tuple[Outcome, SpokenTurn | None]:
        found = self._at((scope, bare_id(turn.calls[0].id)) if turn.calls else prefix)
        verdicts = [(compared(turn, spoken, tools), spoken) for spoken in found]
        fitting = [one for one in verdicts if one[0] is not Outcome.REFUSED_EDITED]
        if not fitting:
            return (Outcome.REFUSED_EDITED if found else Outcome.NOT_FOUND), None
        if len({spoken.raw for _, spoken in fitting}) > 1:
            return Outcome.NOT_FOUND, None
        return fitting[-1]

    def _at(self, place: Place) -> tuple[SpokenTurn, ...]:
        with self._lock:
            found = self._turns.get(place)
            if found is None:
                return ()
            self._turns.move_to_end(place)
            return found

    def _put(self, place: Place, turns: tuple[SpokenTurn, ...]) -> None:
        self._drop(place)
        self._turns[place] = turns
        self._count += len(turns)
        self._bytes += sum(turn.nbytes for turn in turns)

    def _drop(self, place: Place) -> None:
        turns = self._turns.pop(place, ())
        self._count -= len(turns)
        self._bytes -= sum(turn.nbytes for turn in turns)


def as_spoken(turn: Turn, spoken: SpokenTurn) -> Turn:
    """The message as the model spoke it, whatever the client made of its text, reasoning and arguments."""
    calls = (Call(call.id, call.name, Text(call.arguments.replace("\r\n", "\n"))) for call in spoken.calls)
    text, reasoning = (Text(one.replace("\r\n", "\n")) for one in (spoken.text, spoken.reasoning))
    return replace(turn, parts=(text,), reasoning=(reasoning,), calls=tuple(calls))

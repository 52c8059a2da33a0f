"""One request, read once: what each of its messages means, apart from what drifts in it.

Whatever compares requests takes it from here: which answers were sent back, from which turn a request goes on, what
of it the model has read before. Reading half a megabyte takes milliseconds, so it is done once for all of them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from inference.conversation.canonical import message_digest, tools_digest
from inference.conversation.sentinels import Text
from inference.conversation.spans import Found, find, without
from inference.conversation.turns import ThinkTags, Turn, names_given, turn_of
from inference.conversation.volatile import RULES, VolatileRule
from inference.messages import Conversation, Message, Role

MAX_KNOWN_BYTES: Final = 32 << 20
"""Of messages that were read before: about forty conversations of half a megabyte."""
KNOWN_BYTES: Final = 2000
"""What a message costs besides its texts."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """`turns` are the messages without their volatile spans; `digests` has one for each, equal where they are equal in
    meaning. Thoughts are no part of it: a client that drops them goes on with the same conversation.

    `passing` are the numbers of messages that are volatile as a whole: a client may not send them again, so they are
    no part of a history. `tools` is the digest of the tools.
    """

    conversation: Conversation
    turns: tuple[Turn, ...]
    found: Found
    digests: tuple[bytes, ...]
    passing: frozenset[int]
    tools: bytes


type Said = tuple[Turn, bytes]
"""A message as a turn, and the digest of what it says."""
type SayingOf = Callable[[Message, int, ThinkTags | None, Text | None], Said]
"""Reads one message: it, its number, the markers of thoughts, and the name of its function where only its call has
it."""


def saying_of(message: Message, number: int, think: ThinkTags | None, name: Text | None) -> Said:
    """Reads one message."""
    turn = turn_of(message, number, think, Counter())
    named = turn if name is None else replace(turn, name=name)
    return named, said_digest(named)


class Sayings:
    """Messages that were read before: a conversation repeats all but its last ones.

    One is the same only if all of it is, its number and paths included. Least recently read out first, bounded by
    bytes. For any thread. 500 KB in 200 messages take 7 ms to read anew, and 1 ms to find.
    """

    def __init__(self, max_bytes: int = MAX_KNOWN_BYTES) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[Message, int, ThinkTags | None, Text | None], Said] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return self._bytes

    def __call__(self, message: Message, number: int, think: ThinkTags | None, name: Text | None) -> Said:
        key = (message, number, think, name)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        made = saying_of(message, number, think, name)
        with self._lock:
            self._keep(key, made)
        return made

    def forget(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._known.clear()
            self._bytes = 0

    def _keep(self, key: tuple[Message, int, ThinkTags | None, Text | None], made: Said) -> None:
        if key in self._known:
            return
        self._known[key] = made
        self._bytes += _message_bytes(key[0])
        while self._bytes > self._max_bytes:
            (dropped, *_), _ = self._known.popitem(last=False)
            self._bytes -= _message_bytes(dropped)


def _message_bytes(message: Message) -> int:
    """About what it costs to keep: turns share its texts."""
    calls = sum(len(call.arguments) for call in message.tool_calls)
    return KNOWN_BYTES + 2 * (sum(len(part.text) for part in message.parts) + len(message.reasoning) + calls)


def meaning_of(
    conversation: Conversation,
    think: ThinkTags | None = None,
    rules: Sequence[VolatileRule] = RULES,
    saying: SayingOf = saying_of,
) -> Meaning:
    """Reads a request. `think` are the markers of thoughts that clients send back as text; `saying` reads messages."""
    found, messages = find(conversation, rules), conversation.messages
    bare = map(without, messages, found.matched_by_message(len(messages)))
    said = _said(bare, think, saying)
    return Meaning(
        conversation,
        tuple(turn for turn, _ in said),
        found,
        tuple(digest for _, digest in said),
        frozenset(span.message for span in found.matched if span.whole),
        tools_digest(conversation.tools),
    )


def _said(messages: Iterable[Message], think: ThinkTags | None, saying: SayingOf) -> list[Said]:
    """As `turns_of`: a result has the name that its call gave, where it has none itself."""
    said: list[Said] = []
    names: dict[str, Text] = {}
    for number, message in enumerate(messages):
        nameless = message.role is Role.TOOL and not message.name
        said.append(saying(message, number, think, names.get(message.tool_call_id) if nameless else None))
        names |= names_given(said[-1][0])
    return said


def said_digest(turn: Turn) -> bytes:
    """What a message says, whatever was thought before."""
    return message_digest(replace(turn, reasoning=()) if turn.reasoning else turn)


def with_thought(said: bytes, reasoning: str) -> bytes:
    """The digest of a message that was thought about, from that of what it says."""
    thought = reasoning.strip()
    return hashlib.sha256(said + thought.encode("utf-8", "surrogatepass")).digest() if thought else said

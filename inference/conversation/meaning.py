"""One request, read once: what each of its messages means, apart from what drifts in it.

Whatever compares requests takes it from here: which answers were sent back, from which turn a request goes on, what
of it the model has read before. Reading half a megabyte takes milliseconds, so it is done once for all of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference.conversation.canonical import message_digest, tools_digest
from inference.conversation.spans import Found, find, without
from inference.conversation.turns import ThinkTags, Turn, turns_of
from inference.conversation.volatile import RULES, VolatileRule
from inference.messages import Conversation


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


def meaning_of(
    conversation: Conversation, think: ThinkTags | None = None, rules: Sequence[VolatileRule] = RULES
) -> Meaning:
    """Reads a request. `think` are the markers of thoughts that clients send back as text."""
    found, messages = find(conversation, rules), conversation.messages
    bare = tuple(map(without, messages, found.matched_by_message(len(messages))))
    turns = tuple(turns_of(Conversation(bare, conversation.tools), think, Counter()))
    return Meaning(
        conversation,
        turns,
        found,
        tuple(map(said_digest, turns)),
        frozenset(span.message for span in found.matched if span.whole),
        tools_digest(conversation.tools),
    )


def said_digest(turn: Turn) -> bytes:
    """What a message says, whatever was thought before."""
    return message_digest(replace(turn, reasoning=()) if turn.reasoning else turn)


def with_thought(said: bytes, reasoning: str) -> bytes:
    """The digest of a message that was thought about, from that of what it says."""
    thought = reasoning.strip()
    return hashlib.sha256(said + thought.encode("utf-8", "surrogatepass")).digest() if thought else said

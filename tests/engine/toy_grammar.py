"""A grammar of the tests' own: which ids may come next depends on all ids before, so no mask but the right one fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from inference.ports import Guide, Job, ThoughtSpan
from tests.tiny_models import VOCAB_SIZE

END = 2
"""The end-of-turn id of the tiny models."""
OPENER, CLOSER, CLOSING = (9, 10), (11, 12), (13, 11, 12)
"""What opens and closes a thought, and what closes one that has run out of its budget."""


def bits(ids: Iterable[int], size: int = VOCAB_SIZE) -> bytes:
    words = [0] * ((size + 31) // 32)
    for token in ids:
        words[token // 32] |= 1 << token % 32
    return b"".join(word.to_bytes(4, "little") for word in words)


def choices(salt: int, before: tuple[int, ...]) -> frozenset[int]:
    """About a seventh of the vocabulary, without ids below 16 (specials, and the markers that tests use)."""
    state = salt
    for token in before:
        state = (state * 31 + token + 1) % 1009
    return frozenset(token for token in range(16, VOCAB_SIZE) if (token + state) % 7 == 0)


@dataclass
class ToyMatcher:
    grammar: ToyGrammar
    read: tuple[int, ...] = ()
    stopped: bool = False

    def advance(self, token: int) -> bool:
        if token not in self.next_ids:
            self.grammar.refused.append(token)
            return False
        self.stopped = token == END
        self.read = (*self.read, token)
        return True

    def allowed(self) -> bytes:
        return bits(self.next_ids)

    @property
    def next_ids(self) -> frozenset[int]:
        return self.grammar.next_ids(self.read)


@dataclass
class ToyGrammar:
    """Texts of `least` to `most` tokens."""

    least: int = 5
    most: int = 5
    salt: int = 0
    refused: list[int] = field(default_factory=list)

    def matcher(self) -> ToyMatcher:
        return ToyMatcher(self)

    def next_ids(self, before: tuple[int, ...]) -> frozenset[int]:
        going_on = choices(self.salt, before) if len(before) < self.most else frozenset()
        return going_on | {END} if len(before) >= self.least else going_on

    def accepts(self, tokens: Iterable[int]) -> bool:
        read = tuple(tokens)
        return self.least <= len(read) <= self.most and all(
            read[at] in choices(self.salt, read[:at]) for at in range(len(read))
        )


def guided(one: Job, grammar: ToyGrammar | None = None, thought: ThoughtSpan | None = None) -> Job:
    return replace(one, guide=Guide(grammar, thought), stop_ids=one.stop_ids | {END})

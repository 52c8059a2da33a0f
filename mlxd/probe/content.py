"""Invented text that is the same in every run: plain words, so that every tokenizer reads it without surprises."""

from __future__ import annotations

import random
from typing import Final

_TEXT: Final = (
    "the a of to and in is it for on with as at by from this that be are was file line test code value name list key "
    "read write open close start stop check build run call return table record field index order count total first "
    "last next small large short long new old same other each every some many more most water stone river paper light "
    "house door window garden road bridge market morning evening winter summer letter number answer question reason "
    "result change report plan step part place point group system server client request model memory block tree"
)
_WORDS: Final = tuple(_TEXT.split())


def prose(seed: str, words: int) -> str:
    """`words` words in sentences; another seed shares no long run of words with it."""
    chosen = random.Random(seed)  # noqa: S311  nothing secret: it must repeat
    sentences: list[str] = []
    left = words
    while left > 0:
        size = min(left, chosen.randint(6, 14))
        sentences.append(" ".join(chosen.choices(_WORDS, k=size)).capitalize() + ".")
        left -= size
    return " ".join(sentences)

"""What a tokenizer.json may do to a text before any of it is a token: its normalizer's growth and its patterns' cost.

And what its model may cost: some look at every piece of a word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tokenizers import Tokenizer, models

from inference.engine.pattern_cost import cost_of
from inference.errors import InferenceError, InvalidModel

_MAX_GROWTH: Final = 64
"""Characters that a normalizer may make of one. `▁` for a blank is what they are for."""
_MAX_COST: Final = 1024
"""Of all patterns: steps for each character. o200k's have 124."""
_MAX_PIECE_CHARS: Final = 32
"""Every beginning of a piece is looked at behind each character. SentencePiece makes them of 16."""
_MAX_WORD_CHARS: Final = 256
"""What a word costs grows with the third power: 0.2 s for a thousand characters. BERT's limit is 100."""
_RUNS: Final = ("a", "A", "1", " ", "\n", "\r", "\u3000", "é", "中", "-", "'", "\t", "a1", "a ")
_SHORT_CHARS, _LONG_CHARS = 1000, 8000
_SHORT_S, _LONG_S = 0.05, 0.1
"""Ordinary ones take 0.3 and 3 ms. `a+[bc]` takes 3 and 157 ms, and ten seconds for 64 KB."""


def patterns_are_plain(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the patterns are known by their form to cost little.

    `parts` are normalizer and pre-tokenizer as JSON objects. Raises `InvalidModel` when the first makes much of little.
    """
    growth, cost = 1, 0.0
    for part in (inner for one in parts for inner in _inner(one)):
        pattern = part.get("pattern")
        if part.get("type") in {"Replace", "Prepend"}:
            text = str(part.get("content") or part.get("prepend") or "")
            growth *= max(1, len(text))
        if isinstance(pattern, Mapping) and "Regex" in pattern:
            cost += cost_of(str(pattern["Regex"]))
    if growth > _MAX_GROWTH:
        raise InvalidModel("tokenizer.json: its normalizer makes a long text of a short one.")
    return cost <= _MAX_COST


def _inner(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield part
    for name in ("normalizers", "pretokenizers"):
        for one in part.get(name) or ():
            yield from _inner(one)


def model_is_plain(backend: Tokenizer) -> bool:
    """Whether its model reads a text in steps that its length tells."""
    model = backend.model
    if isinstance(model, models.WordPiece):
        return int(model.max_input_chars_per_word) <= _MAX_WORD_CHARS
    if isinstance(model, models.Unigram):
        return max(map(len, backend.get_vocab(with_added_tokens=False)), default=0) <= _MAX_PIECE_CHARS
    return True


def runs_are_cheap(encode: Callable[[str], object], clock: Callable[[], float] = time.process_time) -> bool:
    """Whether texts that patterns find hard are read in no time. Raises `InvalidModel` when the tokenizer gives up.

    The library may read with threads of its own, so the clock is the process's.
    """
    for run in _RUNS:
        for chars, limit_s in ((_SHORT_CHARS, _SHORT_S), (_LONG_CHARS, _LONG_S)):
            began_s = clock()
            try:
                encode((run * chars)[:chars] + "!")
            except InferenceError as error:
                raise InvalidModel("tokenizer.json: its patterns give up on an ordinary text.") from error
            if clock() - began_s > limit_s:
                return False
    return True

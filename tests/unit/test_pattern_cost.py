"""Which patterns of a tokenizer may be met by requests in the process that serves everybody."""

from __future__ import annotations

from math import isfinite
from typing import Final

import pytest
from tokenizers import Tokenizer, models

from inference.engine.pattern_cost import cost_of
from inference.engine.tokenizer_vetting import model_is_plain, patterns_are_plain

SUFFIX: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BLANKS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
OTHER: Final = r"[^\r\n\p{L}\p{N}]?"

PUBLISHED: Final = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": rf"{SUFFIX}|{OTHER}\p{{L}}+|\p{{N}}{{1,3}}|{BLANKS}",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
        r"|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": f"{OTHER}{UPPER}*{LOWER}+{SUFFIX}?|{OTHER}{UPPER}+{LOWER}*{SUFFIX}?|{BLANKS}",
    "DeepSeek": (
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    ),
    "Bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "Han": "[一-龥ࠀ-一가-퟿]+",
}

HARD: Final = {
    "a group repeated": r"(a+)+\d",
    "two repeats, and an end that may be missing": "q+q+!",
    "one repeat, and an end that may be missing": "q+!",
    "an end of the word that may be missing": r"q+\b",
    "blanks that mean nothing": "(?x)(q+) +z",
    "alternatives within": "(?:x|q*)(?:x|q*)(?:x|q*)z",
    "many choices": "q?" * 28 + "q" * 28,
    "many equal choices": "(?:q|q)" * 20 + "z",
    "many equal classes": "(?:[q]|[q])" * 20 + "z",
    "a repeat of few repeats": "q{1,16}+z",
    "a choice so many times": "q?{16}z",
    "a group of a choice so many times": "(?:q?){16}z",
    "what looks like a repeat": "q*{}",
    "a look ahead": "(?=q*z)",
    "a look behind": "(?<=q*)z",
    "a reference back": r"(q)\1",
    "a group without anything": "(?~abc)",
    "a known form behind a backslash": r"\\s*[\r\n]+",
    "a known form, and more": r"(?:\s+(?!\S)|q)z",
    "the form of words with other classes": r"\p{Greek}*\p{Ll}+",
    "a long text": "qq" * 900,
    "a long pattern": "q|" * 2500,
    "a bracket alone": "[q",
}


def _split(pattern: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": pattern}}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_patterns_cost_little(family: str) -> None:
    assert isfinite(cost_of(PUBLISHED[family]))
    assert patterns_are_plain([{"type": "Sequence", "pretokenizers": [_split(PUBLISHED[family])] * 8}])


@pytest.mark.parametrize("kind", HARD)
def test_what_some_text_makes_expensive_is_noticed(kind: str) -> None:
    assert not patterns_are_plain([_split(HARD[kind])])


def test_many_cheap_patterns_are_not_cheap() -> None:
    cheap = _split(PUBLISHED["o200k"])
    assert not patterns_are_plain([{"type": "Sequence", "pretokenizers": [cheap] * 20}])


def test_models_that_look_at_every_piece_of_a_long_word_are_noticed() -> None:
    """The trial's own texts hold none of these letters."""
    words = {"?": 0, "q": 1, "##q": 2}
    for limit, plain in ((100, True), (10**9, False)):
        made = models.WordPiece(vocab=words, unk_token="?", max_input_chars_per_word=limit)
        assert model_is_plain(Tokenizer(made)) is plain
    for longest, plain in ((16, True), (2000, False)):
        pieces = [("q" * length, -1.0) for length in range(1, longest + 1)]
        assert model_is_plain(Tokenizer(models.Unigram(vocab=pieces, unk_id=0))) is plain
    assert model_is_plain(Tokenizer(models.BPE()))

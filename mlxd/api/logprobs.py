"""Log-probabilities as the two OpenAI dialects write them.

Those of tokens whose text is content are told, in its order; thoughts and tool calls have none. A token that is only
a part of a character is written as its bytes (`\\xf0`), for no text could say which it was; chat has `bytes` besides.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Final, Protocol

from inference.events import TokenLogprob

LEAST: Final = -9999.0
"""JSON knows no infinity; this is what OpenAI writes for it."""


class Vocabulary(Protocol):
    """What is needed of a tokenizer."""

    def token_bytes(self, token: int) -> bytes: ...


def chat_logprobs(vocabulary: Vocabulary, found: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    content = [
        _entry(vocabulary, one.token, one.logprob)
        | {"top_logprobs": [_entry(vocabulary, token, logprob) for token, logprob in one.top]}
        for one in found
    ]
    return {"content": content, "refusal": None}


def _entry(vocabulary: Vocabulary, token: int, logprob: float) -> dict[str, Any]:
    raw = vocabulary.token_bytes(token)
    return {"token": _text(raw), "logprob": max(LEAST, logprob), "bytes": list(raw)}


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


class TextLogprobs:
    """The `logprobs` of one text completion, piece by piece. `offset` is where its first token stands in the text."""

    def __init__(self, vocabulary: Vocabulary, offset: int) -> None:
        self._vocabulary = vocabulary
        self._start = self._offset = offset
        self._begun = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def piece(self, found: Sequence[TokenLogprob], text: str) -> dict[str, Any]:
        """Four lists, an entry for each token of `text`. The drawn token is among its `top_logprobs`, likely or not."""
        raws = [self._vocabulary.token_bytes(one.token) for one in found]
        if not self._begun:
            self._begun = True
            self._offset -= raws[0].startswith(b" ") and not text.startswith(" ")  # SentencePiece's opening blank
        return {
            "tokens": [_text(raw) for raw in raws],
            "token_logprobs": [max(LEAST, one.logprob) for one in found],
            "top_logprobs": [self._top(one) for one in found],
            "text_offset": [self._advance(raw) for raw in raws],
        }

    def _top(self, one: TokenLogprob) -> dict[str, float]:
        texts: dict[str, float] = {}
        for token, logprob in (*one.top, (one.token, one.logprob)):
            texts.setdefault(_text(self._vocabulary.token_bytes(token)), max(LEAST, logprob))
        return texts

    def _advance(self, raw: bytes) -> int:
        """Where a token stands: bytes of a character that was never completed are a character of their own."""
        open_bytes, _ = self._decoder.getstate()
        breaks_off = bool(open_bytes and raw) and not 0x80 <= raw[0] < 0xC0
        at = max(self._start, self._offset + breaks_off)
        self._offset += len(self._decoder.decode(raw))
        return at


def added(one: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    """What two pieces of one dialect add up to."""
    if one is None:
        return more
    return {name: value + more[name] if isinstance(value, list) else value for name, value in one.items()}

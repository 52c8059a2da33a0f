"""A model's vocabulary as llguidance walks it: the bytes of every id, and how a text that is forced is written in ids.

It is made of our own tokenizer and not of tokenizer.json: read by the library, `<tool_call>` in a schema's text becomes
the marker's id, which the library's own mask then allows and its parser refuses (1.9.1). Here a text never becomes a
structural id, and a marker is written in a grammar by its number: `<[151657]>`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from llguidance import LLTokenizer, TokenizerWrapper

from inference.engine.tokenizer import JsonTokenizer
from inference.errors import UnsupportedParameter
from inference.ports import Tokenizer

_CHUNK_CHARS: Final = 512
"""Text that a grammar forces is asked for again at every token, shorter by that token: what stays is remembered."""


class _Spelling:
    """What llguidance asks of a tokenizer; the attribute names are its own."""

    bos_token_id = None

    def __init__(self, tokenizer: JsonTokenizer, eos_ids: list[int]) -> None:
        self.eos_token_id = eos_ids[0]
        self.tokens = [tokenizer.token_bytes(number) for number in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.structural_ids)
        self._spell = tokenizer.spell
        self._chunk = lru_cache(maxsize=1024)(tokenizer.spell)

    def __call__(self, text: str) -> list[int]:
        head = len(text) % _CHUNK_CHARS
        ids: list[int] = [*self._spell(text[:head])]
        for start in range(head, len(text), _CHUNK_CHARS):
            ids += self._chunk(text[start : start + _CHUNK_CHARS])
        return ids


def vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """Takes 20 ms for 8,000 ids. Raises `UnsupportedParameter` for a tokenizer whose ids have no bytes of their own."""
    eos_ids = sorted(number for number in tokenizer.eos_ids if number < tokenizer.vocab_size)
    if not isinstance(tokenizer, JsonTokenizer) or not tokenizer.spells_bytes or not eos_ids:
        raise UnsupportedParameter("Structured output is not offered for this model: its tokens are not bytes of text.")
    wrapper = TokenizerWrapper(_Spelling(tokenizer, eos_ids))
    return LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=eos_ids)

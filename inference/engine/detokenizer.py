"""Ids to text, one at a time: a token's bytes, decoded as they complete characters.

Working on bytes makes each token O(1) and the sum of all pieces equal to the text of all ids, by construction. Only
tokenizers that are neither byte-level nor SentencePiece-like are decoded through their library in a short window.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_WINDOW_TOKENS = 64
_BLANK_SIGN = "▁"
"""SentencePiece writes this for a blank."""


def byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write for the 256 bytes: printable ones as themselves, the others
    shifted up by 256 in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


class Pieces:
    """What each id of a vocabulary stands for, worked out when first asked for."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._added = backend.get_added_tokens_decoder()
        kinds = _decoder_kinds(backend)
        self._byte_level = "ByteLevel" in kinds
        self._sentence = not self._byte_level and bool(kinds & {"Metaspace", "ByteFallback", _BLANK_SIGN})
        self.strips_first_blank = self._sentence and bool(kinds & {"Strip", "Metaspace"})
        self._alphabet = byte_alphabet()
        self._known: dict[int, bytes] = {}

    @property
    def are_bytes(self) -> bool:
        """False for decoders whose text depends on neighbours; they need a window."""
        return self._byte_level or self._sentence

    def is_special(self, token: int) -> bool:
        added = self._added.get(token)
        return added is not None and added.special

    def of(self, token: int) -> bytes:
        """The bytes of a token; none for an id outside the vocabulary."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._bytes(token)
        return known

    def _bytes(self, token: int) -> bytes:
        added = self._added.get(token)
        if added is not None and not _BYTE_TOKEN.fullmatch(added.content):
            return (added.content.replace("▁", " ") if self._sentence else added.content).encode()
        text = self.backend.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            values = [self._alphabet.get(character) for character in text]
            return text.encode() if None in values else bytes(value for value in values if value is not None)
        byte = _BYTE_TOKEN.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()


def _decoder_kinds(backend: Backend) -> set[str]:
    state: dict[str, Any] = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    steps = state.get("decoders", [state])
    kinds = {str(step.get("type")) for step in steps}
    if any(step.get("type") == "Replace" and "▁" in str(step.get("pattern")) for step in steps):
        kinds.add(_BLANK_SIGN)
    return kinds


class StreamDetokenizer:
    """The port `Detokenizer` for one answer. Special tokens are skipped unless they are among `shown`."""

    def __init__(self, pieces: Pieces, shown: frozenset[int] = frozenset()) -> None:
        self._pieces = pieces
        self._shown = shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = pieces.strips_first_blank
        self._window: list[int] = []
        self._written = ""

    def push(self, token: int) -> str:
        if self._pieces.is_special(token) and token not in self._shown:
            return ""
        if not self._pieces.are_bytes:
            return self._push_window(token)
        piece = self._pieces.of(token)
        if self._at_start:
            self._at_start = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def finish(self) -> str:
        if self._pieces.are_bytes:
            return self._decoder.decode(b"", final=True)
        text = self._text()
        return text[len(self._written) :]

    def _push_window(self, token: int) -> str:
        """For decoders whose pieces depend on their neighbours: what decoding the last tokens says anew."""
        self._window.append(token)
        text = self._text()
        if text.endswith("�") and len(self._window) < _WINDOW_TOKENS:
            return ""
        fresh = text[len(self._written) :] if text.startswith(self._written) else ""
        self._window = self._window[-2:]
        self._written = self._text()
        return fresh

    def _text(self) -> str:
        return str(self._pieces.backend.decode(self._window, skip_special_tokens=False))

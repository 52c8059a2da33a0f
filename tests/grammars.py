"""Writing by chance within a grammar: what a model with random weights would do, without the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Tokenizer

from inference.engine.tokenizer import JsonTokenizer, TokenizerSource
from inference.ports import CompiledGrammar
from tests.tiny_models import write_tokenizer

EOS_IDS = frozenset({0, 2})


def tiny_tokenizer(directory: Path, markers: Sequence[str] = ()) -> JsonTokenizer:
    """`markers` are added as special tokens."""
    write_tokenizer(directory)
    if markers:
        made = Tokenizer.from_file(str(directory / "tokenizer.json"))
        made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in markers])
        made.save(str(directory / "tokenizer.json"))
    return JsonTokenizer(TokenizerSource(path=directory / "tokenizer.json", eos_ids=EOS_IDS))


def json_lark(schema: Any) -> str:
    """A schema as a grammar of compact JSON."""
    return "start: %json " + json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})


def allowed_ids(mask: bytes) -> list[int]:
    return [8 * at + bit for at, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]


def write(grammar: CompiledGrammar, seed: int, *, limit: int = 4000, ending: Sequence[int] = ()) -> list[int]:
    """Ids drawn by chance among those allowed, until the end of the text; fails where there is no way on.

    Every 20 ids `ending` is tried: what closes a text that chance would never close.
    """
    matcher, random, ids = grammar.matcher(), Random(seed), list[int]()
    wanted: list[int] = []
    while not matcher.stopped:
        allowed = allowed_ids(matcher.allowed())
        wanted = wanted or (list(ending) if len(ids) % 20 == 19 else [])
        choice = wanted.pop(0) if wanted and wanted[0] in allowed else random.choice(allowed)
        assert matcher.advance(choice), "what is allowed must be taken"
        if choice in EOS_IDS:
            break
        ids.append(choice)
        assert len(ids) < limit, "the text does not end"
    return ids

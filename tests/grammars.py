"""Writing by chance within a grammar: what a model with random weights would do, without the model."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from inference.engine.tokenizer import JsonTokenizer, TokenizerSource
from inference.ports import CompiledGrammar
from tests.tiny_models import write_tokenizer

EOS_IDS = frozenset({0, 2})


def tiny_tokenizer(directory: Path) -> JsonTokenizer:
    write_tokenizer(directory)
    return JsonTokenizer(TokenizerSource(path=directory / "tokenizer.json", eos_ids=EOS_IDS))


def json_lark(schema: Any) -> str:
    """A schema as a grammar of compact JSON."""
    return "start: %json " + json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})


def allowed_ids(mask: bytes) -> list[int]:
    return [8 * at + bit for at, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]


def write(grammar: CompiledGrammar, seed: int, *, limit: int = 4000) -> list[int]:
    """Ids drawn by chance among those allowed, until the end of the text; fails where there is no way on."""
    matcher, random, ids = grammar.matcher(), Random(seed), list[int]()
    while not matcher.stopped:
        choice = random.choice(allowed_ids(matcher.allowed()))
        assert matcher.advance(choice), "what is allowed must be taken"
        if choice in EOS_IDS:
            break
        ids.append(choice)
        assert len(ids) < limit, "the text does not end"
    return ids

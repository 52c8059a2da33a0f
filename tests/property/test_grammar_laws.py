"""What is written by chance within a schema's grammar is valid under the schema, each time and at the first attempt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import jsonschema
import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.tokenizer import JsonTokenizer
from inference.params import Grammar
from inference.ports import ModelRef
from mlxd.api.json_schema import enforceable
from mlxd.api.lark import json_node
from tests.grammars import tiny_tokenizer, write
from tests.schemas import schemas

MODEL = ModelRef("tiny", Path("tiny"))
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SCHEMAS = tuple(schemas(200))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def compiler(tokenizer: JsonTokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


def written(compiler: LlgCompiler, tokenizer: JsonTokenizer, schema: dict[str, Any], seed: int) -> str:
    grammar = compiler.compile(MODEL, Grammar(f"start: {json_node(enforceable(schema))}", "guided_json"))
    return tokenizer.decode(write(grammar, seed))


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_what_is_written_is_valid(compiler: LlgCompiler, tokenizer: JsonTokenizer, number: int) -> None:
    schema = SCHEMAS[number]
    text = written(compiler, tokenizer, schema, seed=number)
    value = json.loads(text)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    assert not [error.message for error in validator.iter_errors(value)], text
    assert not re.search(r"[\s]", STRING.sub("", text)), "space that says nothing"


def _without_leap(text: str) -> str:
    """RFC 3339 knows a sixtieth second and small letters, Python does not."""
    return text.upper().replace(":60", ":59")


PARSERS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": lambda text: datetime.fromisoformat(_without_leap(text)),
    "time": lambda text: time.fromisoformat(_without_leap(text)),
    "uuid": UUID,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uri": lambda text: urlsplit(text).scheme or int("a scheme"),
}


@pytest.mark.parametrize("name", PARSERS)
def test_formats_are_what_other_programs_read(compiler: LlgCompiler, tokenizer: JsonTokenizer, name: str) -> None:
    schema = {"type": "string", "format": name}
    for seed in range(100):
        PARSERS[name](json.loads(written(compiler, tokenizer, schema, seed)))


def test_the_schemas_are_different() -> None:
    assert len({json.dumps(schema) for schema in SCHEMAS}) > 195


def test_the_law_is_not_empty(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    """A schema that is not the one followed finds fault with most of what is written."""
    texts = [written(compiler, tokenizer, schema, seed=1) for schema in SCHEMAS[:20]]
    others = [jsonschema.Draft202012Validator(schema) for schema in SCHEMAS[20:40]]
    valid = [other.is_valid(json.loads(text)) for other, text in zip(others, texts, strict=True)]
    assert sum(valid) < 5

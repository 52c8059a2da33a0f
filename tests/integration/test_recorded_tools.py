"""The tools of real agents, made into grammars for calls in every form."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.tokenizer import JsonTokenizer
from inference.params import Grammar
from inference.ports import ModelRef
from mlxd.api.call_grammar import Speech, call_rules
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from tests.grammars import tiny_tokenizer
from tests.recorded import REQUESTS, has_image, needs_recordings

SIGNS = ("", "<function=", "<arg_key>", "[TOOL_CALLS]", "<|python_tag|>")


def sets_of_tools() -> dict[str, dict[str, Any]]:
    """Each set once, under the request that has it first."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, body in REQUESTS:
        if body.get("tools") and not has_image(body):
            found.setdefault(json.dumps(body["tools"]), (name, body))
    return dict(found.values())


SETS = sets_of_tools()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def compiler(tokenizer: JsonTokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


@needs_recordings
@pytest.mark.parametrize("name", SETS)
def test_a_call_of_an_agents_tools_can_be_forced(compiler: LlgCompiler, tokenizer: JsonTokenizer, name: str) -> None:
    body = SETS[name]
    request = ChatRequest.model_validate({"messages": body["messages"], "tools": body["tools"]})
    tools = convert_chat(request).tools
    for sign in SIGNS:
        rules = call_rules(tools, Speech(sign, tokenizer.encode_template), single=False)
        began_s = time.monotonic()
        asked = Grammar("\n".join(["start: calls", *rules]), "tools")
        grammar = compiler.compile(ModelRef("tiny", Path("tiny")), asked)
        assert grammar.matcher().allowed()
        print(f"{name}: {len(tools)} tools, {sign!r}: {time.monotonic() - began_s:.3f} s, {grammar.nbytes >> 10} KiB")

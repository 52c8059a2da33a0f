"""The libraries' own parsers read plain calls as we do, each in its dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tests.dialects.calls import PLAIN, TOOLS, Call
from tests.dialects.table import WAYS, parts, read

OFFERED = [{"type": "function", "function": {"name": tool.name, "parameters": dict(tool.parameters)}} for tool in TOOLS]
MLX_LM = {
    "pythonic": "pythonic",
    "function_gemma": "function_gemma",
    "gemma4": "gemma4",
    "kimi_k2": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "kimi_k3_json": "kimi_k3",
    "minimax_m2": "minimax_m2",
    "muse_spark": "muse_spark",
    "minicpm5": "minicpm5",
    "longcat": "longcat",
    "longcat_json": "longcat",
}
BY_NAME = {way.name: way for way in WAYS}
LIMITS = {
    "function_gemma": {3, 5, 7},  # knows no nested values, and ends a call at the first brace
    "longcat": {0, 4},  # knows no call without arguments
}
"""Samples, by their place in `PLAIN`, that a library's parser does not read."""


def theirs(parser: Any, text: str) -> Iterator[Call]:
    """Every section, as the libraries cut it out of an answer."""
    start, end = parser.tool_call_start, parser.tool_call_end
    for section in text.split(start)[1:]:
        found = parser.parse_tool_call(section.partition(end)[0] if end else section, OFFERED)
        for call in found if isinstance(found, list) else [found]:
            arguments = call["arguments"]
            yield call["name"], json.loads(arguments) if isinstance(arguments, str) else arguments


@pytest.mark.parametrize(("name", "module"), MLX_LM.items())
def test_mlx_lm_reads_the_same(name: str, module: str) -> None:
    parser, way = import_module(f"mlx_lm.tool_parsers.{module}"), BY_NAME[name]
    for at, calls in enumerate(PLAIN):
        if at not in LIMITS.get(name, ()):
            text = way.write(calls)
            assert list(theirs(parser, text)) == parts(read([text], [way.dialect])) == list(calls), at


def test_mlx_vlm_reads_coheres_actions_the_same() -> None:
    parser = pytest.importorskip("mlx_vlm.tools.parsers.cohere2_moe")
    for calls in PLAIN:
        text = BY_NAME["cohere"].write(calls)
        assert list(theirs(parser, text)) == parts(read([text], ["cohere"])) == list(calls)

"""From the fields that say what an answer must look like to one grammar for it, or a refusal.

- A format of the content (`response_format`, `guided_*`, `structured_outputs`) is one at most.
- Where the model may call tools, its answer is a call or content of that format.
- Where it must call one, there is no content for a format to hold for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from inference.errors import UnsupportedParameter
from inference.messages import Tool
from inference.params import Grammar
from mlxd import runtime
from mlxd.api.call_grammar import Speech, answer_rules, call_openers, call_rules, one_call_at_most, speech_of
from mlxd.api.errors import InvalidBody, InvalidField
from mlxd.api.json_schema import MAX_SCHEMA_BYTES, enforceable, schema_bytes
from mlxd.api.lark import json_node, literal, regex, text_without
from mlxd.api.schemas import ChatRequest, GenerationRequest
from mlxd.api.schemas.formats import FormatFields, ResponseFormat
from mlxd.api.strict_json import parse_object
from mlxd.api.tool_choice import ToolChoice, tool_choice
from mlxd.api.validate import MISSING, WRONG_TYPE

LARGE_BODY_BYTES: Final = 64 << 10
_UNSUPPORTED: Final = "is not offered: say it as a JSON schema, a regex or a choice"


async def read_format(request: FormatFields, body_bytes: int) -> Grammar | None:
    """As `content_grammar`, off the loop where it takes long: 150 ms for a schema of 1 MB."""
    if body_bytes <= LARGE_BODY_BYTES:
        return content_grammar(request)
    return await asyncio.to_thread(content_grammar, request)


def content_grammar(request: FormatFields) -> Grammar | None:
    """What the content must match: a grammar of the one rule `content`. Raises `InvalidField` and its like."""
    found = [grammar for read in _SOURCES if (grammar := read(request)) is not None]
    if len(found) > 1:
        message = f"{found[0].param} and {found[1].param} both say what the answer must look like: send one."
        raise InvalidField(message, param=found[1].param)
    return found[0] if found else None


async def shape_answer(
    request: ChatRequest, content: Grammar | None, tools: Sequence[Tool], thought_tokens: int | None = None
) -> Grammar | None:
    """What the answer of the model that a request names must match; large sets of tools are written off the loop.

    `thought_tokens`: the most that a thought may have, where thoughts are messages of the answer.
    """
    choice = tool_choice(request)
    if not choice.forced and content is None and not (choice.single and tools):
        return None
    running = runtime.current()
    speech = speech_of(await running.text(running.resolve(request.model)), running.tool_call_format)
    speech = replace(speech, thought_tokens=thought_tokens)
    return await asyncio.to_thread(answer_grammar, content, choice, tools, speech)


async def without_calls(request: GenerationRequest) -> Grammar:
    """What an answer must match in which the model of a request calls nothing, though it is told of tools."""
    running = runtime.current()
    text = await running.text(running.resolve(request.model))
    speech = speech_of(text, running.tool_call_format)
    return _written([*answer_rules(["content"], speech), text_without(call_openers(speech))], "tools")


def alone(content: Grammar | None) -> Grammar | None:
    """The answer to a raw prompt: content and nothing else."""
    return None if content is None else Grammar(f"start: content\n{content.lark}", content.param)


def answer_grammar(
    content: Grammar | None, choice: ToolChoice, tools: Sequence[Tool], speech: Speech
) -> Grammar | None:
    """What a whole answer must match; None: it is free."""
    if choice.forced:
        named = [tool for tool in tools if not choice.names or tool.name in choice.names]
        param = "tools" if len(named) > 1 else f"{named[0].path}.parameters"
        return _written([*answer_rules(["calls"], speech), *call_rules(named, speech, single=choice.single)], param)
    if content is None:
        rules = one_call_at_most(speech) if choice.single and tools else []
        return _written(rules, "parallel_tool_calls") if rules else None
    if not tools:
        return _written([*answer_rules(["content"], speech), content.lark], content.param)
    calls = call_rules(tools, speech, single=choice.single)
    return _written([*answer_rules(["calls", "content"], speech), *calls, content.lark], content.param)


def _written(rules: Sequence[str], param: str) -> Grammar:
    return Grammar("\n".join(rules), param)


# --- where a format stands --------------------------------------------------------------------------------------


def _response_format(request: FormatFields) -> Grammar | None:
    form = request.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return _content(json_node({"type": "object"}), "response_format")
    return _json_schema(form)


def _json_schema(form: ResponseFormat) -> Grammar:
    if form.json_schema is None or form.json_schema.schema_ is None:
        path = "response_format.json_schema" + ("" if form.json_schema is None else ".schema")
        raise InvalidField(f"{path} is required.", param=path, code=MISSING)
    return _json(form.json_schema.schema_, "response_format.json_schema.schema")


def _guided(request: FormatFields) -> Grammar | None:
    return _spelled(request, "guided_", lambda name: getattr(request, f"guided_{name}"))


def _structured(request: FormatFields) -> Grammar | None:
    asked = request.structured_outputs
    if asked is None:
        return None
    if asked.structural_tag is not None:
        path = "structured_outputs.structural_tag"
        raise UnsupportedParameter(f"{path} {_UNSUPPORTED}.", param=path)
    if asked.json_object:
        return _content(json_node({"type": "object"}), "structured_outputs.json_object")
    values = {"json": asked.json_, "regex": asked.regex, "choice": asked.choice, "grammar": asked.grammar}
    return _spelled(request, "structured_outputs.", values.__getitem__)


def _spelled(request: FormatFields, prefix: str, value: Callable[[str], Any]) -> Grammar | None:
    """One of four fields of the same family."""
    if value("grammar") is not None:
        raise UnsupportedParameter(f"{prefix}grammar {_UNSUPPORTED}.", param=f"{prefix}grammar")
    readers = {"json": _json, "regex": _regex, "choice": _choice}
    given = [name for name in readers if value(name) is not None]
    if len(given) > 1:
        message = f"{prefix}{given[0]} and {prefix}{given[1]} both say what the answer must look like: send one."
        raise InvalidField(message, param=f"{prefix}{given[1]}")
    return readers[given[0]](value(given[0]), f"{prefix}{given[0]}") if given else None


_SOURCES: Final = (_response_format, _guided, _structured)


# --- what a format says -----------------------------------------------------------------------------------------


def _content(body: str, param: str) -> Grammar:
    return Grammar(f"content: {body}", param)


def _json(schema: Any, param: str) -> Grammar:
    if isinstance(schema, str):
        schema = _parsed(schema, param)
    if isinstance(schema, bool):
        message = "must be an object: nothing satisfies false." if not schema else "must be an object."
        raise InvalidField(f"{param} {message}", param=param, code=WRONG_TYPE)
    if not isinstance(schema, Mapping):
        raise InvalidField(f"{param} must be an object.", param=param, code=WRONG_TYPE)
    if schema_bytes(schema, param) > MAX_SCHEMA_BYTES:
        raise InvalidField(f"{param} must have at most {MAX_SCHEMA_BYTES} bytes.", param=param)
    return _content(json_node(enforceable(schema)), param)


def _parsed(text: str, param: str) -> Mapping[str, Any]:
    try:
        return parse_object(text.encode("utf-8", "replace"))
    except InvalidBody:
        raise InvalidField(f"{param} must be an object, or a string that holds one as JSON.", param=param) from None


def _regex(pattern: str, param: str) -> Grammar:
    try:
        return _content(regex(pattern), param)
    except ValueError as error:
        raise InvalidField(f"{param} is no regular expression: {error}.", param=param) from None


def _choice(choices: Sequence[str], param: str) -> Grammar:
    """One terminal: as alternatives of a rule the library takes 2,000 at most, and 25 times as long for each token."""
    return _content(f"CHOICE\nCHOICE: {' | '.join(map(literal, choices))}", param)

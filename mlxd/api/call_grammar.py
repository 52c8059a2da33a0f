"""Calls that a model is made to write: in the form its chat template uses, so that it writes what it has learned.

    json       <tool_call>\\n{"name": "f", "arguments": {"a": 1}}\\n</tool_call>
    xml        <tool_call>\\n<function=f>\\n<parameter=a>\\n1\\n</parameter>\\n</function>\\n</tool_call>
    tagged     <tool_call>f\\n<arg_key>a</arg_key>\\n<arg_value>1</arg_value>\\n</tool_call>
    mistral    [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}], or [TOOL_CALLS]f[ARGS]{"a": 1}
    llama_json <|python_tag|>{"name": "f", "parameters": {"a": 1}}
    harmony    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}

A model of any other form writes `json`, which is read whatever the model. A tool whose arguments cannot be held to its
schema where they stand between tags is called in `json` as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.messages import Tool
from inference.streaming.dialects.choice import dialects, spoken
from inference.tokens import TokenIds
from mlxd.api import harmony_grammar
from mlxd.api.errors import InvalidField
from mlxd.api.json_schema import enforceable
from mlxd.api.lark import SPACED, json_node, literal, marker
from mlxd.api.tag_grammar import Tags, arguments

_SIGNS: Final = {
    "xml": "<function=",
    "tagged": "<arg_key>",
    "mistral": "[TOOL_CALLS]",
    "llama_json": "<|python_tag|>",
}
_FORMS: Final = frozenset({"harmony", "json", *_SIGNS})


@dataclass(frozen=True, slots=True)
class Speech:
    """How a model writes calls. `encode` gives the ids of text as its template writes it.

    `dialects` are those its answers are read in, besides those that are read in any. `thought_tokens` is the limit of
    a thought that is part of the text a grammar is for.
    """

    template: str
    encode: Callable[[str], TokenIds]
    dialects: tuple[str, ...] = ()
    eos_ids: frozenset[int] = frozenset()
    thought_tokens: int | None = None

    @property
    def form(self) -> str:
        named = next((name for name in ("harmony", *self.dialects) if name in self.dialects and name in _FORMS), "")
        return named or next((form for form, sign in _SIGNS.items() if sign in self.template), "json")

    def marker(self, text: str) -> str:
        return marker(text, self.encode)


def speech_of(text: TextModel, tool_call_format: str) -> Speech:
    """How the model of that text side writes calls; the format is the setting's."""
    template = text.template
    source = template.tool_source or template.source if isinstance(template, JinjaTemplate) else ""
    tokenizer = text.tokenizer
    return Speech(source, tokenizer.encode_template, spoken(text.dialects, tool_call_format), tokenizer.eos_ids)


def answer_rules(goals: Sequence[str], speech: Speech) -> list[str]:
    """The rules of a whole answer that is one of `goals`: `content`, `calls`."""
    if speech.form == "harmony":
        return harmony_grammar.frame(speech.marker, goals, speech.thought_tokens)
    return [f"start: {' | '.join(goals)}"]


def call_openers(speech: Speech) -> tuple[str, ...]:
    """What begins a call wherever it stands, in the dialects of the model and those that any model may use."""
    found = (opener for dialect in dialects(speech.dialects) for opener in dialect.openers)
    return tuple(dict.fromkeys(found))


def one_call_at_most(speech: Speech) -> list[str]:
    """The rules of an answer that is free but for a second call; none where calls have no tokens of their own."""
    opener, closer = speech.encode("<tool_call>"), speech.encode("</tool_call>")
    if speech.form not in ("json", "xml", "tagged") or (len(opener), len(closer)) != (1, 1):
        return []
    free = ",".join(map(str, sorted({*speech.eos_ids, *opener})))
    return [
        f"start: free (<[{opener[0]}]> inner <[{closer[0]}]> free)?",
        f"free: <[^{free}]>*",
        f"inner: <[^{free},{closer[0]}]>*",
    ]


def call_rules(tools: Sequence[Tool], speech: Speech, *, single: bool) -> list[str]:
    """Rules for `calls`: one call, or one and more. Raises `InvalidField` for parameters that are no object's."""
    match speech.form:
        case "harmony":
            return harmony_grammar.calls(speech.marker, tools, _arguments)
        case "mistral" if "[ARGS]" in speech.template:
            return _mistral_named(tools, speech, single)
        case "mistral":
            return _mistral_listed(tools, speech, single)
        case "llama_json":
            return _llama(tools, speech, single)
    rules, names = list[str](), list[str]()
    for number, tool in enumerate(tools):
        names.append(f"t{number}")
        rules += _wrapped(names[-1], tool, speech)
    opener, closer = speech.marker("<tool_call>"), speech.marker("</tool_call>")
    calls = "calls: call" if single else 'calls: call ("\\n" call)*'
    return [calls, f"call: {opener} ({' | '.join(names)}) {closer}", *rules]


def _wrapped(rule: str, tool: Tool, speech: Speech) -> list[str]:
    """What stands between `<tool_call>` and `</tool_call>`."""
    tags = _tags(speech)
    written = None if tags is None else arguments(rule, tool, tags)
    if written is None:
        return [f'{rule}: "\\n" {_object(tool, "arguments")} "\\n"']
    body, rules = written
    if speech.form == "tagged":
        return [f"{rule}: {literal(f'{tool.name}{chr(10)}')} {body}", *rules]
    head, tail = literal(f"\n<function={tool.name}>\n"), literal("</function>\n")
    return [f"{rule}: {head} {body} {tail}", *rules]


def _tags(speech: Speech) -> Tags | None:
    if speech.form == "xml":
        return Tags(lambda key: literal(f"<parameter={key}>\n"), "\n", "</parameter>", speech.marker("</parameter>"))
    if speech.form != "tagged":
        return None
    before, between = speech.marker("<arg_key>"), f'{speech.marker("</arg_key>")} "\\n" {speech.marker("<arg_value>")}'
    return Tags(lambda key: f"{before} {literal(key)} {between}", "", "</arg_value>", speech.marker("</arg_value>"))


def _mistral_named(tools: Sequence[Tool], speech: Speech, single: bool) -> list[str]:
    calls = " | ".join(f"{literal(tool.name)} {speech.marker('[ARGS]')} {_arguments(tool)}" for tool in tools)
    return [f"calls: call{'' if single else '+'}", f"call: {speech.marker('[TOOL_CALLS]')} ({calls})"]


def _mistral_listed(tools: Sequence[Tool], speech: Speech, single: bool) -> list[str]:
    listed = "call" if single else 'call (", " call)*'
    return [f'calls: {speech.marker("[TOOL_CALLS]")} "[" {listed} "]"', _any_of(tools, "arguments")]


def _llama(tools: Sequence[Tool], speech: Speech, single: bool) -> list[str]:
    listed = "call" if single else 'call ("; " call)*'
    return [f"calls: {speech.marker('<|python_tag|>')} {listed}", _any_of(tools, "parameters")]


def _any_of(tools: Sequence[Tool], key: str) -> str:
    return f"call: {' | '.join(_object(tool, key) for tool in tools)}"


def _object(tool: Tool, key: str) -> str:
    head = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{key}": '
    return f"{literal(head)} {_arguments(tool)} {literal('}')}"


def _arguments(tool: Tool) -> str:
    schema = {"type": "object", **enforceable(tool.parameters)}
    if schema["type"] != "object":
        path = f"{tool.path}.parameters.type"
        raise InvalidField(f"{path} must be object: arguments have names.", param=path)
    return json_node(schema, SPACED, lenient=not tool.strict)

"""Slow readers of whole answers, one for each dialect: regular expressions, `ast` and `json`, and no state.

They are right about what a model writes by its template, and say nothing about broken calls.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.dialects.calls import SCHEMA, Call, Said, folded

Oracle = Callable[[str], Said]
Found = tuple[list[Call], int]
"""The calls of a section and where it ends."""

DECODER = json.JSONDecoder()


def _scan(text: str, opener: str, read: Callable[[str, int], Found]) -> Said:
    said, at = Said(), 0
    while found := re.compile(opener).search(text, at):
        said.append(text[at : found.start()])
        calls, at = read(text, found.end())
        said += calls
    return folded([*said, text[at:]])


def _typed(key: str, text: str) -> Any:
    kind = SCHEMA["properties"][key]["type"]  # type: ignore[index]
    if kind == "string" or (isinstance(kind, list) and text != "null"):
        return text
    return json.loads(text)


def _literal(node: ast.expr) -> Any:
    for name in ast.walk(node):
        if isinstance(name, ast.Name):
            word = {"true": True, "false": False, "null": None}[name.id]
            name.__class__ = ast.Constant  # type: ignore[assignment]
            name.value = word  # type: ignore[attr-defined]
    return ast.literal_eval(node)


def _python_list(text: str) -> list[Call] | None:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(tree, ast.List) or not all(isinstance(one, ast.Call) for one in tree.elts):
        return None
    calls = [one for one in tree.elts if isinstance(one, ast.Call)]
    return [(ast.unparse(one.func), {str(k.arg): _literal(k.value) for k in one.keywords}) for one in calls]


def _pythonic(closer: str) -> Callable[[str, int], Found]:
    def read(text: str, at: int) -> Found:
        for end in range(at, len(text) + 1):
            if text.startswith(closer, end) and (calls := _python_list(text[at:end])):
                return calls, end + len(closer)
        raise AssertionError("an oracle reads good calls only")

    return read


def pythonic(text: str) -> Said:
    return _scan(text, r"<\|tool_call_start\|>", _pythonic("<|tool_call_end|>"))


def pythonic_llama4(text: str) -> Said:
    return _scan(text, r"<\|python_start\|>", _pythonic("<|python_end|>"))


def pythonic_bare(text: str) -> Said:
    """Only where the answer begins with it."""
    for end in range(1, len(text) + 1):
        if text.lstrip().startswith("[") and text[end - 1] == "]" and (calls := _python_list(text[:end])):
            return folded([*calls, text[end:]])
    return folded([text])


def _gemma(quote: str, closer: str) -> Callable[[str, int], Found]:
    def read(text: str, at: int) -> Found:
        ends = (found.start() for found in re.finditer(re.escape(closer), text[at:]))
        end = next(at + end for end in ends if text[at : at + end].count(quote) % 2 == 0)
        name, brace, rest = text[at:end].partition("{")
        parts = (brace + rest).split(quote)
        for index, part in enumerate(parts):
            parts[index] = json.dumps(part) if index % 2 else re.sub(r"([{,]\s*)([\w.-]+):", r'\1"\2":', part)
        return [(name.removeprefix("call:"), json.loads("".join(parts)))], end + len(closer)

    return read


def function_gemma(text: str) -> Said:
    return _scan(text, "<start_function_call>", _gemma("<escape>", "<end_function_call>"))


def gemma4(text: str) -> Said:
    return _scan(text, r"<\|tool_call>", _gemma('<|"|>', "<tool_call|>"))


def _json_calls(head: str, tail: str, closer: str) -> Callable[[str, int], Found]:
    """Calls of a `head` with a group for the name, the arguments as JSON, and a `tail`."""

    def read(text: str, at: int) -> Found:
        calls = list[Call]()
        while found := re.compile(r"\s*" + head).match(text, at):
            arguments, end = DECODER.raw_decode(text, found.end())
            ending = re.compile(tail).match(text, end)
            assert ending
            calls.append((found[1], arguments))
            at = ending.end()
        ending = re.compile(r"\s*" + closer).match(text, at)
        assert ending
        return calls, ending.end()

    return read


def kimi_k2(text: str) -> Said:
    head = r"<\|tool_call_begin\|>(?:functions\.)?(.*?):\d+\s*<\|tool_call_argument_begin\|>\s*"
    read = _json_calls(head, r"\s*<\|tool_call_end\|>", r"<\|tool_calls_section_end\|>")
    return _scan(text, r"<\|tool_calls_section_begin\|>", read)


def deepseek_v3(text: str) -> Said:
    head = r"<｜tool▁call▁begin｜>function<｜tool▁sep｜>(.*?)\n```json\n"
    read = _json_calls(head, "\n```<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
    return _scan(text, "<｜tool▁calls▁begin｜>", read)


def deepseek_v31(text: str) -> Said:
    head = r"<｜tool▁call▁begin｜>(.*?)<｜tool▁sep｜>"
    read = _json_calls(head, "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
    return _scan(text, "<｜tool▁calls▁begin｜>", read)


def cohere(text: str) -> Said:
    def read(text: str, at: int) -> Found:
        listed, end = DECODER.raw_decode(text, at)
        assert text.startswith("<|END_ACTION|>", end)
        return [(one["tool_name"], one["parameters"]) for one in listed], end + len("<|END_ACTION|>")

    return _scan(text, r"<\|START_ACTION\|>", read)


def _tagged(call: str, pair: str, closer: str, value: Callable[[re.Match[str]], Any]) -> Callable[[str, int], Found]:
    """Calls of a pattern with the groups `name` and `body`, in which `pair` has `key`, `value` and what it likes."""

    def read(text: str, at: int) -> Found:
        calls = list[Call]()
        while found := re.compile(r"\s*" + call, re.DOTALL).match(text, at):
            pairs = re.finditer(pair, found["body"], re.DOTALL)
            calls.append((found["name"], {one["key"]: value(one) for one in pairs}))
            at = found.end()
        ending = re.compile(r"\s*" + closer).match(text, at)
        assert ending
        return calls, ending.end()

    return read


def _by_schema(pair: re.Match[str]) -> Any:
    return _typed(pair["key"], pair["value"])


def minimax_m2(text: str) -> Said:
    return _scan(text, "<minimax:tool_call>", _tagged(
        r'<invoke name="(?P<name>[^"]*)">(?P<body>.*?)</invoke>(?=\s*(?:<invoke |</minimax:tool_call>))',
        r'<parameter name="(?P<key>[^"]*)">(?P<value>.*?)</parameter>(?=\s*(?:<parameter name=|\Z))',
        "</minimax:tool_call>", _by_schema,
    ))  # fmt: skip


def muse_spark(text: str) -> Said:
    return _scan(text, "<atem:function_calls>", _tagged(
        r'<atem:invoke name="(?P<name>[^"]*)">(?P<body>.*?)</atem:invoke>(?=\s*<(?:atem:invoke |/atem:function))',
        r'<atem:parameter name="(?P<key>[^"]*)">(?P<value>.*?)</atem:parameter>(?=\s*(?:<atem:parameter name=|\Z))',
        "</atem:function_calls>", _by_schema,
    ))  # fmt: skip


def _dsml_value(pair: re.Match[str]) -> Any:
    return pair["value"] if pair["string"] == "true" else json.loads(pair["value"])


def dsml(text: str) -> Said:
    return _scan(text, "<｜DSML｜(?:function_calls|tool_calls)>", _tagged(
        r'<｜DSML｜invoke name="(?P<name>[^"]*)">(?P<body>.*?)</｜DSML｜invoke>(?=\s*(?:<｜DSML｜invoke |</｜DSML｜))',
        r'<｜DSML｜parameter name="(?P<key>[^"]*)" string="(?P<string>true|false)">(?P<value>.*?)</｜DSML｜parameter>'
        r"(?=\s*(?:<｜DSML｜parameter name=|\Z))",
        "</｜DSML｜(?:function_calls|tool_calls)>", _dsml_value,
    ))  # fmt: skip


def kimi_k3(text: str) -> Said:
    def value(pair: re.Match[str]) -> Any:
        return pair["value"] if pair["type"] == "string" else json.loads(pair["value"])

    def whole(found: re.Match[str]) -> Iterator[tuple[str, Any]]:
        if block := re.fullmatch(
            r"<\|open\|>json type=\"object\"<\|sep\|>(.*)<\|close\|>json<\|sep\|>", found[2], re.S
        ):
            yield from json.loads(block[1]).items()
            return
        argument = (
            r'<\|open\|>argument key="(?P<key>[^"]*)" type="(?P<type>[^"]*)"<\|sep\|>(?P<value>.*?)'
            r"<\|close\|>argument<\|sep\|>"
        )
        yield from ((pair["key"], value(pair)) for pair in re.finditer(argument, found[2], re.S))

    def read(text: str, at: int) -> Found:
        calls = list[Call]()
        call = re.compile(
            r'\s*<\|open\|>call tool="(.*?)" index="\d+"<\|sep\|>(.*?)<\|close\|>call<\|sep\|>'
            r"(?=\s*<\|(?:open\|>call|close\|>tools))",
            re.S,
        )
        while found := call.match(text, at):
            calls.append((found[1], dict(whole(found))))
            at = found.end()
        closer = "<|close|>tools<|sep|>"
        assert text[at:].lstrip().startswith(closer)
        return calls, text.index(closer, at) + len(closer)

    return _scan(text, r"<\|open\|>tools<\|sep\|>", read)


def minicpm5(text: str) -> Said:
    call = re.compile(r'<function name="(?P<name>[^"]*)">(?P<body>(?:<param name="[^"]*">(?:<!\[CDATA\[.*?\]\]>|[^<]*)'
                      r"</param>)*)</function>", re.S)  # fmt: skip
    pair = re.compile(r'<param name="([^"]*)">(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))</param>', re.S)
    said, at = Said(), 0
    for found in call.finditer(text):
        values = {one[1]: _typed(one[1], one[3] if one[2] is None else one[2]) for one in pair.finditer(found["body"])}
        said += [text[at : found.start()], (found["name"], values)]
        at = found.end()
    return folded([*said, text[at:]])


def longcat(text: str) -> Said:
    def read(text: str, at: int) -> Found:
        if text[at:].lstrip().startswith("{"):
            made, end = DECODER.raw_decode(text, at + re.search(r"\S", text[at:]).start())  # type: ignore[union-attr]
            closer = re.compile(r"\s*</longcat_tool_call>").match(text, end)
            assert closer
            return [(made["name"], made["arguments"])], closer.end()
        name = re.compile(r"\s*([^<\s]+)\s*").match(text, at)
        pair = re.compile(
            r"\s*<longcat_arg_key>(?P<key>.*?)</longcat_arg_key>\s*<longcat_arg_value>(?P<value>.*?)"
            r"</longcat_arg_value>(?=\s*(?:<longcat_arg_key>|</longcat_tool_call>))",
            re.S,
        )
        assert name
        arguments, at = dict[str, Any](), name.end()
        while found := pair.match(text, at):
            arguments[found["key"]] = _by_schema(found)
            at = found.end()
        return [(name[1], arguments)], text.index("</longcat_tool_call>", at) + len("</longcat_tool_call>")

    return _scan(text, "<longcat_tool_call>", read)


def minimax_m3(text: str) -> Said:
    mark = "]<]minimax[>["

    def value(element: ElementTree.Element, kind: str) -> Any:
        if kind == "array":
            return [value(one, "") for one in element]
        if len(element):
            return {one.tag: value(one, "") for one in element}
        text = element.text or ""
        return {} if kind == "object" else text if kind in ("string", "") else json.loads(text)

    def read(text: str, at: int) -> Found:
        end = text.index(mark + "</tool_call>", at)
        tagged = [re.fullmatch(r"(</?[^<>]*>)(.*)", piece, re.S) for piece in text[at:end].split(mark)[1:]]
        tree = ElementTree.fromstring(f"<all>{''.join(one[1] + escape(one[2]) for one in tagged if one)}</all>")
        properties: Any = SCHEMA["properties"]
        calls = [
            (str(one.get("name")), {arg.tag: value(arg, properties[arg.tag]["type"]) for arg in one}) for one in tree
        ]
        return calls, end + len(mark + "</tool_call>")

    return _scan(text, re.escape(mark + "<tool_call>"), read)

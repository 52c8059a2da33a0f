"""Calls of MiniMax M3: a mark before each tag, arguments as elements of their own name, objects and lists nested.

    M<tool_call>M<invoke name="NAME">M<KEY>VALUE M</KEY>M<KEY>M<item>VALUE M</item>M</KEY>M</invoke>M</tool_call>

where M is `]<]minimax[>[`. A leaf is typed by the schema; elements in an argument that is an array by its schema, or
that are all called `item`, are a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from inference.messages import Tool
from inference.streaming.call_values import is_text, typed, written
from inference.streaming.dialect import Dialect
from inference.streaming.dialects.attributes import attributes
from inference.streaming.dialects.sections import calls
from inference.streaming.json_text import MAX_DEPTH
from inference.streaming.parameters import Parameters
from inference.streaming.reading import MAX_KEY_CHARS, Broken, Reading, Source

_MARK: Final = "]<]minimax[>["
_OPENER, _CLOSER = f"{_MARK}<tool_call>", f"{_MARK}</tool_call>"
_INVOKE, _INVOKE_END = f"{_MARK}<invoke", f"{_MARK}</invoke>"

Elements = list[tuple[str, Any]]


def _read(source: Source) -> Reading[None]:
    yield from calls(source, _call, _INVOKE, _CLOSER)


def _call(source: Source) -> Reading[None]:
    source.claim()
    tool = source.begin((yield from attributes(source, ">")).get("name", ""))
    parameters = Parameters(source, tool)
    while True:
        yield from source.space()
        if (yield from source.expect(f"{_MARK}<", _INVOKE_END)) == _INVOKE_END:
            break
        yield from _argument(source, parameters, tool)
    parameters.end()
    source.end()


def _argument(source: Source, parameters: Parameters, tool: Tool) -> Reading[None]:
    """One element right in a call, whose opening `<` is taken."""
    key, _ = yield from source.until(">", limit=MAX_KEY_CHARS)
    if is_text(tool, key):
        end = f"{_MARK}</{key}>"
        yield from parameters.read(key, lambda sink: source.value(sink, {end: (_MARK,)}, {_INVOKE_END: (_MARK,)}))
        return
    value = yield from _inside(source, key, 1)
    is_array = typed("[]", tool, key) == []
    if not isinstance(value, str):
        parameters.add(key, written(_nested(value, is_array=is_array)))
    elif value.strip() or not (is_array or typed("{}", tool, key) == {}):
        parameters.add_text(key, value)
    else:
        parameters.add(key, "[]" if is_array else "{}")


def _inside(source: Source, name: str, depth: int) -> Reading[str | Elements]:
    """What stands in an element up to its end, the end taken: text, or elements (white space between them is none)."""
    if depth > MAX_DEPTH:
        raise Broken("nested too deeply")
    elements: Elements = []
    while True:
        text, _ = yield from source.until(_MARK)
        if (yield from source.expect("</", "<")) == "</":
            yield from source.expect(f"{name}>")
            return elements or text
        if text.strip():
            raise Broken("text between elements")
        inner, _ = yield from source.until(">", limit=MAX_KEY_CHARS)
        elements.append((inner, (yield from _inside(source, inner, depth + 1))))


def _nested(elements: Sequence[tuple[str, Any]], *, is_array: bool = False) -> Any:
    """Elements as a list or an object; a leaf that no schema names is text."""
    values = [_nested(value) if isinstance(value, list) else value for _, value in elements]
    if is_array or all(name == "item" for name, _ in elements):
        return values
    return dict(zip((name for name, _ in elements), values, strict=True))


MINIMAX_M3: Final = Dialect("minimax_m3", _read, openers=(_OPENER,), markers=(_MARK,))

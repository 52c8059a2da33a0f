"""How models write a call, three dialects told apart by what stands in them and not by the model's family.

    <tool_call>{"name": NAME, "arguments": {...}}</tool_call>                  JSON; also `parameters`
    <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>     also without the wrapper
    <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>

A value may hold a marker itself: in a JSON string, or before its own closing tag. Such a closer does not end the call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from inference.messages import Tool
from inference.streaming.call_values import parsed, typed, written

WRAPPER: Final = "<tool_call>"
BARE: Final = "<function="
CLOSERS: Final = {WRAPPER: "</tool_call>", BARE: "</function>"}
MARKERS: Final = (WRAPPER, CLOSERS[WRAPPER], "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
"""Texts that may be special tokens of a model, which are silent unless they are asked for."""

_MAX_NAME: Final = 128
_NAME: Final = re.compile(r"""[^\s<>{}"'=]*""")
_SPACE: Final = re.compile(r"\s*")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.?)*+("?)', re.DOTALL)
_PARAMETER: Final = re.compile(r"<parameter=([^<>\n]{1,256})>")
_PARAMETER_END: Final = re.compile(r"</parameter>\s*(?=<parameter=|</function>\Z)")
_KEY: Final = re.compile(r"<arg_key>([^<>]{1,256})</arg_key>\s*<arg_value>")
_VALUE_END: Final = re.compile(r"</arg_value>\s*(?=<arg_key>|\Z)")
_NEXT_CALL: Final = re.compile(r"</tool_call>\s*<tool_call>")


class Unread(Enum):
    """Why a text up to a closer is no call. OPEN: the closer stands inside of a value, so the call goes on."""

    OPEN = "open"
    BROKEN = "broken"


Read = tuple[str, str]
"""A call's name and its arguments as JSON text."""


def skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def starts(text: str, at: int, marker: str) -> bool | None:
    """Whether `marker` stands at `at`; None: the text ends before that is certain."""
    seen = text[at : at + len(marker)]
    if seen == marker:
        return True
    return None if marker.startswith(seen) and at + len(seen) == len(text) else False


def begins(opener: str, text: str, at: int) -> bool | None:
    """Whether what follows an opener begins a call of any dialect; None: more text is needed to say."""
    if opener == BARE:
        named = _named(text, at, (">",))
        return _any_starts(text, text.index(">", at) + 1, ("<parameter=", CLOSERS[BARE])) if named else named
    at = skip_space(text, at)
    if at == len(text) or text[at] == "{":
        return None if at == len(text) else True
    function = starts(text, at, BARE)
    return _named(text, at, ("<arg_key>", CLOSERS[WRAPPER])) if function is False else function


def _named(text: str, at: int, followers: tuple[str, ...]) -> bool | None:
    """Whether a name stands at `at` and one of `followers` behind it."""
    if at == len(text):
        return None
    name = _NAME.match(text, at)
    if name is None or not 0 < name.end() - at <= _MAX_NAME:
        return False
    return _any_starts(text, name.end(), followers)


def _any_starts(text: str, at: int, markers: tuple[str, ...]) -> bool | None:
    """Whether one of `markers` stands at `at` or behind the white space there."""
    behind = skip_space(text, at)
    found = [starts(text, behind, marker) for marker in markers]
    return True if True in found else None if None in found else False


def read(opener: str, body: str, offered: Mapping[str, Tool]) -> Read | Unread:
    """Reads what stands between an opener and a closer. A name that was not offered is no call."""
    if opener == BARE:
        return _function(f"{BARE}{body}{CLOSERS[BARE]}", offered)
    body = body.strip()
    if body.startswith("{"):
        return _json(body, offered)
    verdict = _function(body, offered) if body.startswith(BARE) else _tagged(body, offered)
    # Where a closing tag was forgotten, the next call must not become part of this one's value.
    return Unread.BROKEN if _NEXT_CALL.search(body) else verdict


def _json(body: str, offered: Mapping[str, Tool]) -> Read | Unread:
    try:
        call = parsed(body)
    except ValueError:
        in_string = any(not string[1] for string in _STRING.finditer(body))
        return Unread.OPEN if in_string else Unread.BROKEN
    name = call.get("name")
    if not isinstance(name, str) or name not in offered:
        return Unread.BROKEN
    arguments = call.get("arguments", call.get("parameters"))
    try:
        if isinstance(arguments, str):
            arguments = parsed(arguments) if arguments.strip() else None
    except ValueError:
        return Unread.BROKEN
    return _call(name, {} if arguments is None else arguments)


def _call(name: str, arguments: Any) -> Read | Unread:
    try:
        return (name, written(arguments)) if isinstance(arguments, dict) else Unread.BROKEN
    except ValueError:
        return Unread.BROKEN


def _function(body: str, offered: Mapping[str, Tool]) -> Read | Unread:
    """`<function=NAME>...</function>`."""
    if not body.endswith(CLOSERS[BARE]):
        in_value = body.rfind("<parameter=") > body.rfind("</parameter>")
        return Unread.OPEN if in_value else Unread.BROKEN
    name, _, _ = body[len(BARE) :].partition(">")
    tool = offered.get(name.strip())
    if tool is None:
        return Unread.BROKEN
    at, arguments = skip_space(body, len(BARE) + len(name) + 1), dict[str, Any]()
    while key := _PARAMETER.match(body, at):
        end = _PARAMETER_END.search(body, key.end())
        if end is None:
            return Unread.BROKEN
        value = body[key.end() : end.start()].removeprefix("\n").removesuffix("\n")
        arguments[key[1].strip()] = typed(value, tool, key[1].strip())
        at = end.end()
    return _call(tool.name, arguments) if at == len(body) - len(CLOSERS[BARE]) else Unread.BROKEN


def _tagged(body: str, offered: Mapping[str, Tool]) -> Read | Unread:
    """`NAME<arg_key>...`."""
    name, _, _ = body.partition("<")
    tool = offered.get(name.strip())
    if tool is None:
        return Unread.BROKEN
    at, arguments = len(name), dict[str, Any]()
    while key := _KEY.match(body, at):
        end = _VALUE_END.search(body, key.end())
        if end is None:
            return Unread.OPEN
        arguments[key[1].strip()] = typed(body[key.end() : end.start()], tool, key[1].strip())
        at = end.end()
    return _call(tool.name, arguments) if at == len(body) else Unread.BROKEN

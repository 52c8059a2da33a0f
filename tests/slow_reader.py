"""What an answer means, read slowly from its whole text: no state, nothing held back, no code of the product.

Calls are those that can be read to their end. The sum is three strings in which NUL stands for a call: what a client
sees of the content and of the reasoning, and the calls themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NUL = "\0"
NAME = r"""\s*([^\s<>{}"'=()\[\]]{1,128})"""
OPENERS = ("<tool_call>", "<function=", "[TOOL_CALLS]", "<|python_tag|>")

Call = tuple[str, dict[str, Any]]
Schema = Mapping[str, Any]
Offered = Mapping[str, Schema]
Found = tuple[list[Call], int]
"""Calls, and where the text goes on behind them."""


@dataclass(frozen=True, slots=True)
class Meaning:
    content: str
    reasoning: str
    calls: list[Call]


def meaning(text: str, offered: Offered, opener: str = "", closer: str = "") -> Meaning:
    """Without markers no text is a thought."""
    calls: list[Call] = []
    plain, at = "", 0
    while at < len(text):
        found = call_at(text, at, offered)
        if found is None and not calls and begins_content(plain, opener, closer) and not text[at].isspace():
            found = unwrapped(text, at, offered)
        if found is None:
            plain, at = plain + text[at], at + 1
        else:
            calls, at = calls + found[0], found[1]
            plain += NUL * len(found[0])
    content, reasoning = split(plain, opener, closer)
    if not calls:
        return Meaning(content, reasoning, [])
    return Meaning(re.sub(rf"(?:\A|(?<={NUL}))\s+(?={NUL})|(?<={NUL})\s+\Z", "", content), reasoning, calls)


def split(text: str, opener: str, closer: str) -> tuple[str, str]:
    """Content and reasoning; a NUL stands in both."""
    if not opener:
        return text, NUL * text.count(NUL)
    marks = re.escape(opener), re.escape(closer)
    thought = rf"(?:\A\n*)?{marks[0]}(?:\n|{marks[0]})*(.*?)(?:\n*{marks[1]}\n*|\Z)"
    parts = re.split(thought, text, flags=re.DOTALL)
    sides = [[part, NUL * part.count(NUL)][:: 1 - 2 * (number % 2)] for number, part in enumerate(parts)]
    return "".join(side[0] for side in sides), "".join(side[1] for side in sides)


def begins_content(before: str, opener: str, closer: str) -> bool:
    content, _ = split(before + "!", opener, closer)
    return not content.replace(NUL, "!").strip()[:-1] and content.endswith("!")


def call_at(text: str, at: int, offered: Offered) -> Found | None:
    opener = next((one for one in OPENERS if text.startswith(one, at)), "")
    at += len(opener)
    match opener:
        case "<tool_call>":
            return in_json(text, at, offered) or in_xml(text, at, offered, True) or in_tags(text, at, offered)
        case "<function=":
            return in_xml(text, at, offered, False)
        case "[TOOL_CALLS]":
            return in_list(text, at, offered) or named(text, at, offered)
        case "<|python_tag|>":
            return in_json(text, at, offered, ";")
    return None


def behind(text: str, at: int, literal: str) -> int:
    """Where the text goes on behind a closer, which may be cut off or missing."""
    space = re.compile(r"\s{0,256}").match(text, at)
    rest = text[space.end() :] if space else ""
    if rest.startswith(literal):
        return len(text) - len(rest) + len(literal)
    return len(text) if rest and literal.startswith(rest) else at


# --- JSON -------------------------------------------------------------------------------------------------------


def repaired(text: str) -> str:
    def string(found: re.Match[str]) -> str:
        inside = re.sub(r'\\(?!["\\/bfnrt]|u[0-9a-fA-F]{4})', r"\\\\", re.sub(r"(\\\\)|(\\\")", mask, found[0][1:-1]))
        inside = re.sub(r"[\x00-\x1f]", lambda control: f"\\u{ord(control[0]):04x}", inside)
        return '"' + inside.replace("\ue000", r"\\").replace("\ue001", r"\"") + '"'

    def mask(found: re.Match[str]) -> str:
        return "\ue000" if found[1] else "\ue001"

    return re.sub(r'"(?:[^"\\]|\\.)*"', string, text, flags=re.DOTALL)


def refuse(_: str) -> Any:
    raise ValueError


def decoded(text: str) -> Any:
    """The value of JSON text, with its objects as lists of pairs."""
    return json.loads(repaired(text), parse_constant=refuse, object_pairs_hook=Pairs)


class Pairs(list[tuple[str, Any]]):
    pass


def plain(value: Any) -> Any:
    if isinstance(value, Pairs):
        return {key: plain(one) for key, one in value}
    return [plain(one) for one in value] if isinstance(value, list) else value


def value_at(text: str, at: int) -> tuple[Any, int] | None:
    """The object that begins here and its end: the shortest text that is one."""
    if not text.startswith("{", at):
        return None
    for found in re.compile("}").finditer(text, at):
        try:
            return decoded(text[at : found.end()]), found.end()
        except ValueError:
            continue
    return None


def as_call(pairs: Pairs, offered: Offered) -> Call | None:
    names = [value for key, value in pairs if key == "name"]
    arguments = [value for key, value in pairs if key in ("arguments", "parameters")]
    if len(names) != 1 or len(arguments) > 1 or not isinstance(names[0], str) or names[0].strip() not in offered:
        return None
    found = arguments[0] if arguments else None
    if isinstance(found, str):
        try:
            found = json.loads(found, strict=False, object_pairs_hook=Pairs) if found.strip() else None
        except ValueError:
            return None
    if found is not None and not isinstance(found, Pairs):
        return None
    return names[0].strip(), plain(found or Pairs())


def objects(text: str, at: int, offered: Offered, separator: str) -> Found | None:
    """One call or more with something between them."""
    calls: list[Call] = []
    between = re.compile(separator)
    start = re.compile(r"\s*").match(text, at)
    position = start.end() if start else at
    while (found := value_at(text, position)) and (call := as_call(found[0], offered)):
        calls.append(call)
        at = found[1]
        next_one = between.match(text, at)
        if next_one is None:
            break
        position = next_one.end()
    return (calls, at) if calls else None


def in_json(text: str, at: int, offered: Offered, separator: str = "") -> Found | None:
    found = objects(text, at, offered, rf"\s{{0,256}}{separator}\s*" if separator else r"(?!)")
    if found is None or separator:
        return found
    return found[0], behind(text, found[1], "</tool_call>")


def in_list(text: str, at: int, offered: Offered) -> Found | None:
    bracket = re.compile(r"\s*\[").match(text, at)
    found = objects(text, bracket.end(), offered, r"\s*,\s*") if bracket else None
    if found is None:
        return None
    closed = re.compile(r"\s*\]").match(text, found[1])
    return found[0], closed.end() if closed else found[1]


def named(text: str, at: int, offered: Offered) -> Found | None:
    calls: list[Call] = []
    head = re.compile(NAME + r"(?:\[CALL_ID\][A-Za-z0-9_-]{0,128})?\[ARGS\]\s*")
    while (begun := head.match(text, at)) and begun[1] in offered and (found := value_at(text, begun.end())):
        calls.append((begun[1], plain(found[0])))
        at = found[1]
    return (calls, at) if calls else None


def unwrapped(text: str, at: int, offered: Offered) -> Found | None:
    inside = re.compile(r"(```(?:json)?\s*)?(\[?)(.*?)(\]?)(?(1)\s*```)\s*\Z", re.DOTALL).match(text, at)
    if inside is None or bool(inside[2]) is not bool(inside[4]):
        return None
    found = objects(inside[3], 0, offered, r"\s*,\s*" if inside[2] else r"\s*")
    return (found[0], len(text)) if found and not inside[3][found[1] :].strip() else None


# --- tags -------------------------------------------------------------------------------------------------------


def in_xml(text: str, at: int, offered: Offered, wrapped: bool) -> Found | None:
    head = re.compile((r"\s*<function=" if wrapped else "") + NAME + r"\s*>\s*(?=<parameter=|</function>)")
    broken = r"</function>\s*</tool_call>|</tool_call>\s*<tool_call>" if wrapped else r"</function>\s*<function="
    found = pairs(
        text, at, offered, head, r"<parameter=([^<>\n]{0,256})>", r"</parameter>\s*(?=<parameter=|</function>)", broken,
        "</function>", lambda value: value.removeprefix("\n").removesuffix("\n"),
    )  # fmt: skip
    return (found[0], behind(text, found[1], "</tool_call>")) if found else None


def in_tags(text: str, at: int, offered: Offered) -> Found | None:
    head = re.compile(NAME + r"\s*(?=<arg_key>|</tool_call>)")
    return pairs(
        text, at, offered, head, r"<arg_key>((?:(?!</arg_key>).){0,256})</arg_key>\s*<arg_value>",
        r"</arg_value>\s*(?=<arg_key>|</tool_call>)", r"</tool_call>\s*<tool_call>", "</tool_call>", str,
    )  # fmt: skip


def pairs(
    text: str, at: int, offered: Offered, head: re.Pattern[str], key: str, end: str, broken: str, closer: str,
    trimmed: Callable[[str], str],
) -> Found | None:  # fmt: skip
    begun = head.match(text, at)
    if begun is None or begun[1] not in offered:
        return None
    at, arguments = begun.end(), dict[str, Any]()
    while not text.startswith(closer, at):
        opened = re.compile(key, re.DOTALL).match(text, at)
        closed = re.compile(f"(?P<end>{end})|{broken}").search(text, opened.end()) if opened else None
        if opened is None or closed is None or closed["end"] is None:
            return None
        value = trimmed(text[opened.end() : closed.start()])
        arguments[opened[1].strip()] = by_schema(value, offered[begun[1]], opened[1].strip())
        at = closed.end()
    return [(begun[1], arguments)], at + len(closer)


def by_schema(text: str, schema: Schema, key: str) -> Any:
    """Schemas of these tests name one type or have none; a text that is not of it stays text."""
    kind = {"integer": int, "array": list, "object": dict}.get(schema.get("properties", {}).get(key, {}).get("type"))
    try:
        value = json.loads(text.strip(), strict=False, parse_constant=refuse)
    except ValueError:
        return text
    return value if kind and type(value) is kind else text

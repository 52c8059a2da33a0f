"""How each dialect writes calls, as the models' chat templates do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.dialects.calls import Call

Writer = Callable[[Sequence[Call]], str]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else compact(value)


def _arguments(arguments: dict[str, Any], write: Callable[[Any], str]) -> str:
    return ", ".join(f"{key}={write(value)}" for key, value in arguments.items())


def _list(calls: Sequence[Call], write: Callable[[Any], str]) -> str:
    return f"[{', '.join(f'{name}({_arguments(arguments, write)})' for name, arguments in calls)}]"


def pythonic(calls: Sequence[Call]) -> str:
    return f"<|tool_call_start|>{_list(calls, repr)}<|tool_call_end|>"


def pythonic_llama4(calls: Sequence[Call]) -> str:
    return f"<|python_start|>{_list(calls, compact)}<|python_end|>"


def pythonic_bare(calls: Sequence[Call]) -> str:
    return _list(calls, repr)


def _gemma(value: Any, quote: str) -> str:
    match value:
        case str():
            return f"{quote}{value}{quote}"
        case dict():
            return f"{{{','.join(f'{key}:{_gemma(inner, quote)}' for key, inner in value.items())}}}"
        case list():
            return f"[{','.join(_gemma(inner, quote) for inner in value)}]"
    return compact(value)


def function_gemma(calls: Sequence[Call]) -> str:
    return "".join(
        f"<start_function_call>call:{name}{_gemma(arguments, '<escape>')}<end_function_call>"
        for name, arguments in calls
    )


def gemma4(calls: Sequence[Call]) -> str:
    return "".join(f"<|tool_call>call:{name}{_gemma(arguments, '<|"|>')}<tool_call|>" for name, arguments in calls)


def kimi_k2(calls: Sequence[Call]) -> str:
    inner = "".join(
        f"<|tool_call_begin|>functions.{name}:{at}<|tool_call_argument_begin|>{compact(arguments)}<|tool_call_end|>"
        for at, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


def _xtml_type(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def kimi_k3(calls: Sequence[Call]) -> str:
    inner = ""
    for at, (name, arguments) in enumerate(calls, 1):
        inner += f'<|open|>call tool="{name}" index="{at}"<|sep|>'
        for key, value in arguments.items():
            inner += f'<|open|>argument key="{key}" type="{_xtml_type(value)}"<|sep|>{plain(value)}'
            inner += "<|close|>argument<|sep|>"
        inner += "<|close|>call<|sep|>"
    return f"<|open|>tools<|sep|>{inner}<|close|>tools<|sep|>"


def kimi_k3_json(calls: Sequence[Call]) -> str:
    inner = "".join(
        f'<|open|>call tool="{name}" index="{at}"<|sep|><|open|>json type="object"<|sep|>{compact(arguments)}'
        "<|close|>json<|sep|><|close|>call<|sep|>"
        for at, (name, arguments) in enumerate(calls, 1)
    )
    return f"<|open|>tools<|sep|>{inner}<|close|>tools<|sep|>"


def minimax_m2(calls: Sequence[Call]) -> str:
    inner = ""
    for name, arguments in calls:
        inner += f'<invoke name="{name}">\n'
        inner += "".join(f'<parameter name="{key}">{plain(value)}</parameter>\n' for key, value in arguments.items())
        inner += "</invoke>\n"
    return f"<minimax:tool_call>\n{inner}</minimax:tool_call>"


def muse_spark(calls: Sequence[Call]) -> str:
    inner = ""
    for name, arguments in calls:
        inner += f'<atem:invoke name="{name}">\n'
        for key, value in arguments.items():
            inner += f'<atem:parameter name="{key}">{plain(value)}</atem:parameter>\n'
        inner += "</atem:invoke>\n"
    return f"<atem:function_calls>\n{inner}</atem:function_calls>"


def _dsml(calls: Sequence[Call], section: str) -> str:
    inner = []
    for name, arguments in calls:
        lines = [
            f'<｜DSML｜parameter name="{key}" string="{"true" if isinstance(value, str) else "false"}">{plain(value)}'
            "</｜DSML｜parameter>"
            for key, value in arguments.items()
        ]
        inner.append("\n".join([f'<｜DSML｜invoke name="{name}">', *lines, "</｜DSML｜invoke>"]))
    return f"<｜DSML｜{section}>\n{'\n'.join(inner)}\n</｜DSML｜{section}>"


def dsml(calls: Sequence[Call]) -> str:
    return _dsml(calls, "function_calls")


def dsml_v4(calls: Sequence[Call]) -> str:
    return _dsml(calls, "tool_calls")


def minicpm5(calls: Sequence[Call]) -> str:
    def param(key: str, value: Any) -> str:
        text = plain(value)
        marked = any(sign in text for sign in "<&\n") or text != text.strip()
        return f'<param name="{key}">{f"<![CDATA[{text}]]>" if marked else text}</param>'

    return "".join(
        f'<function name="{name}">{"".join(param(*pair) for pair in arguments.items())}</function>'
        for name, arguments in calls
    )


def longcat(calls: Sequence[Call]) -> str:
    made = ""
    for name, arguments in calls:
        inner = "".join(
            f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{plain(value)}</longcat_arg_value>\n"
            for key, value in arguments.items()
        )
        made += f"<longcat_tool_call>{name}\n{inner}</longcat_tool_call>\n"
    return made.removesuffix("\n")


def longcat_json(calls: Sequence[Call]) -> str:
    return "\n".join(
        f"<longcat_tool_call>\n{compact({'name': name, 'arguments': arguments})}\n</longcat_tool_call>"
        for name, arguments in calls
    )


def deepseek_v3(calls: Sequence[Call]) -> str:
    made = (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{compact(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{'\n'.join(made)}<｜tool▁calls▁end｜>"


def deepseek_v31(calls: Sequence[Call]) -> str:
    made = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{compact(arguments)}<｜tool▁call▁end｜>" for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{made}<｜tool▁calls▁end｜>"


def cohere(calls: Sequence[Call]) -> str:
    listed = ",\n".join(
        f'    {{"tool_call_id": "{at}", "tool_name": "{name}", "parameters": {compact(arguments)}}}'
        for at, (name, arguments) in enumerate(calls)
    )
    return f"<|START_ACTION|>[\n{listed}\n]<|END_ACTION|>"


def _m3(key: str, value: Any) -> str:
    mark = "]<]minimax[>["
    match value:
        case dict():
            inner = "".join(_m3(name, one) for name, one in value.items())
        case list():
            inner = "".join(_m3("item", one) for one in value)
        case _:
            inner = plain(value)
    return f"{mark}<{key}>{inner}{mark}</{key}>"


def minimax_m3(calls: Sequence[Call]) -> str:
    mark = "]<]minimax[>["
    inner = ""
    for name, arguments in calls:
        made = "".join(_m3(key, value) for key, value in arguments.items())
        inner += f'{mark}<invoke name="{name}">{made}{mark}</invoke>\n'
    return f"{mark}<tool_call>\n{inner}{mark}</tool_call>"

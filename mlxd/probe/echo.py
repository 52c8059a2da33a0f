"""How clients send an answer back: what each changes of text, thought and calls, as recorded of them.

An `Echo` is a table of choices, and `CLIENTS` has one for each client of the chat API that was recorded. They change
the spelling of an answer and never its meaning; who loses the thought loses nothing that a template shows by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlxd.probe.asks import Message

type Respell = Callable[[str], str]


def exact(arguments: str) -> str:
    return arguments


def javascript(arguments: str) -> str:
    """As JSON.parse and JSON.stringify leave it: no blanks, no escapes that need not be, whole numbers without `.0`."""
    return _written(arguments, whole_numbers=True, separators=(",", ":"), ensure_ascii=False)


def compact(arguments: str) -> str:
    return _written(arguments, separators=(",", ":"), ensure_ascii=False)


def sorted_compact(arguments: str) -> str:
    return _written(arguments, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def python(arguments: str) -> str:
    return _written(arguments, ensure_ascii=False)


def python_ascii(arguments: str) -> str:
    return _written(arguments)


def _written(arguments: str, *, whole_numbers: bool = False, **options: Any) -> str:
    try:
        value = json.loads(arguments, parse_float=_number if whole_numbers else None)
    except ValueError:
        return arguments
    return json.dumps(value, **options)


def _number(digits: str) -> int | float:
    value = float(digits)
    return int(value) if value.is_integer() else value


def kept(thought: str) -> str:
    return thought


def trimmed(thought: str) -> str:
    return thought.strip()


def dropped(thought: str) -> str:
    return ""


def bare(call_id: str) -> str:
    """An id without its underscores."""
    return call_id.replace("_", "")


@dataclass(frozen=True, slots=True)
class Echo:
    """`empty` is the content of an answer of calls alone, "absent" for no such field. `blank_thought` says that an
    answer without a thought gets an empty one. `extra` are fields that say nothing."""

    arguments: Respell = exact
    thought: Respell = kept
    call_id: Respell = exact
    empty: str | None = None
    blank_thought: bool = False
    extra: tuple[str, ...] = ()

    def of(self, answer: Message) -> Message:
        """An answer as this client sends it back."""
        message: Message = {"role": "assistant", "content": answer.get("content")}
        if not message["content"]:
            message["content"] = self.empty
        if self.empty == "absent" and not answer.get("content"):
            del message["content"]
        thought = self.thought(answer.get("reasoning_content") or "")
        if thought or self.blank_thought:
            message["reasoning_content"] = thought
        if answer.get("tool_calls"):
            message["tool_calls"] = [self._call(call) for call in answer["tool_calls"]]
        return message | dict.fromkeys(self.extra)

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        name, arguments = call["function"]["name"], self.arguments(call["function"]["arguments"])
        return {
            "id": self.call_id(call["id"]),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }


CLIENTS: Final[Mapping[str, Echo]] = {
    "pi": Echo(javascript),
    "openclaw": Echo(javascript, call_id=bare),
    "opencode": Echo(javascript, empty=""),
    "qwen-code": Echo(javascript, trimmed, empty=""),
    "cline": Echo(javascript),
    "openai-python": Echo(),
    "litellm-proxy": Echo(),
    "langchain": Echo(python, dropped),
    "llm": Echo(python_ascii, dropped),
    "pydantic-ai": Echo(compact, blank_thought=True),
    "ai-sdk": Echo(sorted_compact, empty=""),
}
"""By the name of the folder that holds a client's recordings; any other sends answers back as they came."""

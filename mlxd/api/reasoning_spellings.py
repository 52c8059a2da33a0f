"""The fields in which clients speak of thinking, as a table: each name with the way its value is read.

enable_thinking                                   Qwen, vLLM, SGLang
thinking, {"type", "budget_tokens"}               Anthropic, GLM, Kimi, OpenClaw (also a word or a boolean)
reasoning, {"effort", "max_tokens", "exclude"}    OpenRouter, the Responses API
reasoning_effort                                  OpenAI, LiteLLM
think                                             Ollama
thinking_budget, reasoning_budget ...             DashScope, vLLM, llama.cpp
include_reasoning                                 OpenRouter, vLLM
preserve_thinking, clear_thinking ...             what templates call it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from inference.conversation.control import EFFORTS
from mlxd.api.errors import InvalidField
from mlxd.api.validate import WRONG_TYPE

OFF: Final = frozenset({"none", "off", "disabled"})
ON: Final = frozenset({"on", "enabled", "adaptive"})
AS_USUAL: Final = frozenset({"auto", "default"})
WORDS: Final = (*EFFORTS, "off", "on", "enabled", "disabled", "adaptive", "auto", "default")
_MAX_BUDGET: Final = 2**31 - 1


class Said(NamedTuple):
    """One statement: the field of a `ReasoningWish` it is about, its value, and the path where it stood."""

    about: str
    value: bool | int | str
    path: str


Reader = Callable[[Any, str], Iterator[Said]]
"""Gives what a value at a path says. Raises `InvalidField`."""


def _flag(about: str, *, reverse: bool = False) -> Reader:
    def read(value: Any, path: str) -> Iterator[Said]:
        if type(value) is not bool:
            raise InvalidField(f"{path} must be true or false.", param=path, code=WRONG_TYPE)
        yield Said(about, value is not reverse, path)

    return read


def _budget(value: Any, path: str) -> Iterator[Said]:
    """Tokens a thought may have: 0 is off, -1 no limit."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise InvalidField(f"{path} must be an integer.", param=path, code=WRONG_TYPE)
    if not -1 <= value <= _MAX_BUDGET:
        raise InvalidField(f"{path} must be from -1 (no limit) to {_MAX_BUDGET}.", param=path)
    if value == 0:
        yield Said("enabled", False, path)
    elif value > 0:
        yield Said("budget_tokens", value, path)


def _word(value: Any, path: str) -> Iterator[Said]:
    if not isinstance(value, str) or value not in WORDS:
        raise InvalidField(f"{path} must be one of {', '.join(WORDS)}.", param=path)
    if value in OFF or value in ON:
        yield Said("enabled", value in ON, path)
    elif value not in AS_USUAL:
        yield Said("effort", value, path)


def _any_form(value: Any, path: str) -> Iterator[Said]:
    """A boolean, a word or an object: what different APIs mean by `thinking`, `think` and `reasoning`."""
    match value:
        case bool():
            yield Said("enabled", value, path)
        case str():
            yield from _word(value, path)
        case dict():
            for name, read in _OBJECT.items():
                if value.get(name) is not None:
                    yield from read(value[name], f"{path}.{name}")
        case _:
            message = f"{path} must be true, false, a word or an object."
            raise InvalidField(message, param=path, code=WRONG_TYPE)


_OBJECT: Final[dict[str, Reader]] = {
    "enabled": _flag("enabled"),
    "type": _word,
    "effort": _word,
    "level": _word,
    "budget_tokens": _budget,
    "max_tokens": _budget,
    "exclude": _flag("exclude"),
    "clear_thinking": _flag("preserve", reverse=True),
}
READERS: Final[dict[str, Reader]] = {
    "enable_thinking": _flag("enabled"),
    "thinking": _any_form,
    "think": _any_form,
    "reasoning": _any_form,
    "reasoning_effort": _word,
    "thinking_budget": _budget,
    "thinking_token_budget": _budget,
    "reasoning_budget": _budget,
    "include_reasoning": _flag("exclude", reverse=True),
    "preserve_thinking": _flag("preserve"),
    "preserve_reasoning": _flag("preserve"),
    "keep_past_thinking": _flag("preserve"),
    "clear_thinking": _flag("preserve", reverse=True),
    "truncate_history_thinking": _flag("preserve", reverse=True),
    "drop_thinking": _flag("preserve", reverse=True),
}

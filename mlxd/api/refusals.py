"""Fields that contradict each other, and fields that mlxd knows and does not offer (yet). Rows, not branches.

An unknown field is ignored, because agents send extras; a known one that would change the answer is refused, because
silence would be a lie.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from inference.errors import UnsupportedParameter
from mlxd.api.errors import InvalidField
from mlxd.api.schemas import ChatRequest, CompletionRequest, GenerationRequest

MAX_METADATA_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Unsupported:
    """`field` is refused when its value (never None) satisfies `when`."""

    field: str
    when: Callable[[Any], bool]
    why: str


def _always(_: Any) -> bool:
    return True


_EITHER: Final = (
    Unsupported("bad_words", bool, "is not offered"),
    Unsupported("prompt_logprobs", lambda value: value is not False, "is not offered"),
)
_CHAT: Final = (
    *_EITHER,
    Unsupported("functions", bool, "is the retired form: send tools"),
    Unsupported("function_call", lambda call: call not in ("auto", "none"), "is the retired form: send tool_choice"),
    Unsupported("chat_template", _always, "is not taken from a request: the model's own template is used"),
    Unsupported("modalities", lambda kinds: kinds != ["text"], "other than text is not offered"),
    Unsupported("audio", _always, "is not offered"),
    Unsupported("web_search_options", _always, "is not offered"),
)
_COMPLETIONS: Final = (
    *_EITHER,
    Unsupported("suffix", bool, "is not offered: this model has no tokens that mark a gap to fill"),
)


def refuse_chat(request: ChatRequest) -> None:
    """Raises `InvalidField` or `UnsupportedParameter`. Wrong values are told before fields not offered."""
    _check_either(request)
    _check_limits(request.max_tokens, request.max_completion_tokens)
    _check_min_tokens(request, request.max_completion_tokens or request.max_tokens)
    if request.top_logprobs and not request.logprobs:
        raise InvalidField("top_logprobs needs logprobs: true.", param="top_logprobs")
    _refuse(request, _CHAT)
    if request.add_generation_prompt is False and not request.continue_final_message:
        message = "add_generation_prompt false is only offered with continue_final_message: true."
        raise UnsupportedParameter(message, param="add_generation_prompt")


def refuse_completion(request: CompletionRequest) -> None:
    """As `refuse_chat`."""
    _check_either(request)
    _check_min_tokens(request, request.max_tokens)
    _refuse(request, _COMPLETIONS)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise UnsupportedParameter("best_of other than n is not offered: every answer is sent.", param="best_of")
    if request.echo and request.logprobs is not None:
        raise UnsupportedParameter("logprobs of an echoed prompt are not offered.", param="logprobs")


def _refuse(request: GenerationRequest, rules: tuple[Unsupported, ...]) -> None:
    for rule in rules:
        value = getattr(request, rule.field)
        if value is not None and rule.when(value):
            raise UnsupportedParameter(f"{rule.field} {rule.why}.", param=rule.field)


def _check_either(request: GenerationRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidField("stream_options needs stream: true.", param="stream_options")
    if request.metadata and len(json.dumps(request.metadata)) > MAX_METADATA_BYTES:
        raise InvalidField(f"metadata must be at most {MAX_METADATA_BYTES} bytes of JSON.", param="metadata")
    _check_context(request)


def _check_limits(max_tokens: int | None, max_completion_tokens: int | None) -> None:
    if None not in (max_tokens, max_completion_tokens) and max_tokens != max_completion_tokens:
        message = "max_tokens and max_completion_tokens are two names of one limit and must not differ."
        raise InvalidField(message, param="max_completion_tokens")


def _check_context(request: GenerationRequest) -> None:
    one, other = request.repetition_context_size, request.repeat_last_n
    if None not in (one, other) and one != other:
        message = "repetition_context_size and repeat_last_n are two names of one figure and must not differ."
        raise InvalidField(message, param="repeat_last_n")


def _check_min_tokens(request: GenerationRequest, max_tokens: int | None) -> None:
    if max_tokens is not None and (request.min_tokens or 0) > max_tokens:
        raise InvalidField("min_tokens must not be above max_tokens.", param="min_tokens")

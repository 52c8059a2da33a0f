"""How the values a request leaves open are decided: request > configuration > the model's generation_config > off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from inference.params import GenerationParams, KVQuantisation, SamplingParams, StopConditions
from mlxd.api.schemas import ChatRequest, CompletionRequest, GenerationRequest

_NEUTRAL: Final = SamplingParams()
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0, 2),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
"""A model's own file is data from elsewhere: what lies outside these is not used."""
_ALL_TOKENS: Final = 2**31


def generation_params(
    request: GenerationRequest, configured: Mapping[str, float | int], of_model: Mapping[str, Any]
) -> GenerationParams:
    """Everything resolved but `max_tokens`, which stays None (the room left) when nobody sets it."""
    model = _sane(of_model)
    chosen: dict[str, Any] = {name: _first(name, request, configured, model) for name in _RANGES}
    chosen["top_k"] = max(0, int(chosen["top_k"]))  # -1 is how other engines write off
    known = {field.name for field in fields(SamplingParams)}
    chosen |= {name: value for name, value in configured.items() if name in known and name not in chosen}
    if (context_tokens := _penalty_context_tokens(request)) is not None:
        chosen["penalty_context_tokens"] = context_tokens
    return GenerationParams(
        sampling=SamplingParams(**chosen, seed=request.seed),
        stop=StopConditions(tuple(request.stop or ()), tuple(request.stop_token_ids or ())),
        max_tokens=_max_tokens(request, configured),
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        top_logprobs=_top_logprobs(request),
        n=request.n or 1,
        kv=_quantisation(request),
    )


def _first(name: str, request: GenerationRequest, *layers: Mapping[str, Any]) -> float:
    asked: float | None = getattr(request, name)
    if asked is not None:
        return asked
    value: float = next((layer[name] for layer in layers if name in layer), getattr(_NEUTRAL, name))
    return value


def _sane(of_model: Mapping[str, Any]) -> dict[str, float]:
    values = {
        name: of_model[name]
        for name, (low, high) in _RANGES.items()
        if type(of_model.get(name)) in (int, float) and low <= of_model[name] <= high
    }
    if of_model.get("do_sample") is False:
        values["temperature"] = 0.0
    if values.get("top_p") == 0:
        del values["top_p"]
    if values.get("repetition_penalty") == 0:
        del values["repetition_penalty"]
    return values


def _penalty_context_tokens(request: GenerationRequest) -> int | None:
    """By either of its names; -1 is how one of them writes everything."""
    asked = request.repetition_context_size
    asked = request.repeat_last_n if asked is None else asked
    return _ALL_TOKENS if asked == -1 else asked


def _top_logprobs(request: GenerationRequest) -> int | None:
    match request:
        case ChatRequest(logprobs=True, top_logprobs=count):
            return count or 0
        case CompletionRequest(logprobs=count):
            return count
        case _:
            return None


def _quantisation(request: GenerationRequest) -> KVQuantisation | None:
    if request.kv_bits is None:
        return None
    return KVQuantisation(request.kv_bits, request.kv_group_size or 64, request.quantized_kv_start or 0)


def _max_tokens(request: GenerationRequest, configured: Mapping[str, float | int]) -> int | None:
    named = request.max_completion_tokens if isinstance(request, ChatRequest) else None
    named = named or request.max_tokens
    if named is None and "max_tokens" in configured:
        return int(configured["max_tokens"])
    return named

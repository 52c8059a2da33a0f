"""Refusals that no waiting would change: parameters that hurt the engine, no room in the context or the memory."""

from __future__ import annotations

from math import isfinite

from inference.errors import InvalidParameter, ModelTooLarge, PromptTooLong
from inference.params import GenerationParams
from inference.ports import ModelLimits
from inference.scheduler.budget import estimate_bytes, fits, held_tokens
from inference.scheduler.request import Request

RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (0, 2**31),
    "repetition_penalty": (1e-6, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "penalty_context_tokens": (0, 2**31),
}
"""What the engine can bear. The API's own ranges are narrower; this is the last door before the GPU."""
COUNTS = {
    "min_tokens": (0, 2**31),
    "n": (1, 8),
    "top_logprobs": (0, 20),
    "thinking_budget_tokens": (0, 2**31),
}
LARGEST_BIAS = 1e4
KV_BITS = (4, 8)
KV_GROUP_SIZES = (32, 64, 128)


def check_params(params: GenerationParams) -> None:
    """Raises `InvalidParameter` for a value outside what the engine can bear."""
    for name, (low, high) in RANGES.items():
        value = getattr(params.sampling, name)
        if not (isfinite(value) and low <= value <= high):
            raise InvalidParameter(f"{name} must be between {low:g} and {high:g}.", param=name)
    for name, (least, most) in COUNTS.items():
        count = getattr(params, name)
        if count is not None and not least <= count <= most:
            raise InvalidParameter(f"{name} must be from {least} to {most}.", param=name)
    if not all(isfinite(bias) and abs(bias) <= LARGEST_BIAS for _, bias in params.sampling.logit_bias):
        raise InvalidParameter(f"A logit bias must be within {LARGEST_BIAS:g} of 0.", param="logit_bias")
    kv = params.kv
    if kv is not None and not (kv.bits in KV_BITS and kv.group_size in KV_GROUP_SIZES and kv.start_tokens >= 0):
        raise InvalidParameter(
            "Keys and values can be had in 4 or 8 bits, by groups of 32, 64 or 128.", param="kv_bits"
        )
    seed = params.sampling.seed
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise InvalidParameter("seed must be a 64-bit integer.", param="seed")
    if params.max_tokens is not None and params.max_tokens < 1:
        raise InvalidParameter("max_tokens must be at least 1.", param="max_tokens")
    if not all(params.stop.strings):
        raise InvalidParameter("A stop string must not be empty.", param="stop")
    if params.deadline_s is not None and not params.deadline_s > 0:
        raise InvalidParameter("The deadline must be more than 0 s.")


def granted_tokens(request: Request) -> int:
    """`max_tokens` cut to the room the prompt leaves. Raises `PromptTooLong` and, for no prompt, `InvalidParameter`."""
    prompt_tokens = len(request.prompt)
    if not prompt_tokens:
        raise InvalidParameter("The prompt is empty.", param="messages")
    room = request.context_tokens - prompt_tokens
    if room < 1:
        raise PromptTooLong(prompt_tokens, request.context_tokens)
    return min(request.params.max_tokens or room, room)


def check_vocabulary(request: Request, limits: ModelLimits) -> None:
    """Raises `InvalidParameter` for an id the model has no row for; such an id reads foreign memory on the GPU."""
    ids, params = request.prompt.ids, request.params
    written = {
        "prompt": (min(ids), max(ids)),
        "stop_token_ids": params.stop.token_ids,
        "logit_bias": tuple(token for token, _ in params.sampling.logit_bias),
    }
    for param, found in written.items():
        if any(not 0 <= token < limits.vocab_size for token in found):
            raise InvalidParameter(f"Token ids must be from 0 to {limits.vocab_size - 1}.", param=param)


def check_quantisation(request: Request, limits: ModelLimits) -> None:
    """Raises `InvalidParameter` where the model's keys and values cannot be quantised as asked."""
    kv, able = request.params.kv, limits.kv_group_sizes
    if kv is None or kv.group_size in able:
        return
    if not able:
        raise InvalidParameter("kv_bits is not possible with this model's attention.", param="kv_bits")
    sizes = " or ".join(map(str, able))
    raise InvalidParameter(f"kv_group_size must be {sizes} with this model.", param="kv_group_size")


def reserved_lengths(request: Request, max_tokens: int, reserve_tokens: int) -> tuple[int, ...]:
    """The lengths that a request's memory is reserved for at first, one for each answer it wants."""
    params = request.params
    return (held_tokens(len(request.prompt) + min(max_tokens, reserve_tokens), params.kv),) * params.n


def check_memory(request: Request, max_tokens: int, limits: ModelLimits, limit_bytes: int, reserve_tokens: int) -> None:
    """Raises `ModelTooLarge`, with both figures, for what an empty server could not hold.

    `param` is what would have to be less, None where the model alone is too much.
    """
    if not fits([(limits, ())], limit_bytes):
        raise ModelTooLarge(
            f"The model needs {limits.weights_bytes} bytes and {limit_bytes} bytes of memory may be used."
        )
    prompt_tokens = len(request.prompt)
    load = [(limits, reserved_lengths(request, max_tokens, reserve_tokens))]
    if not fits(load, limit_bytes):
        bare = fits([(limits, (prompt_tokens + 1,))], limit_bytes)
        raise ModelTooLarge(
            f"This request needs about {estimate_bytes(load)} bytes of memory, the model included, and"
            f" {limit_bytes} bytes may be used.",
            param="max_tokens" if bare else "messages",
        )

"""Reads `config.json` of a model that may be hostile: bounded size, plain JSON, numbers in sane ranges.

Only what a hostile value could turn into a crash or an allocation is checked here. What an architecture needs
besides is checked by building it, which allocates nothing until the weights are evaluated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.engine.left_unread import parts
from inference.engine.model_json import read_object
from inference.errors import InvalidModel, UnsafeModel

_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RUN_KEY = "model_file"
"""The one key whose code the MLX packages themselves would run, were they allowed to."""
_CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length", "n_ctx")
_UNSTATED_CONTEXT_TOKENS = 8192
"""For models whose config names no limit (mostly recurrent ones)."""
_LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1024),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"), 4096),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 4096),
    **dict.fromkeys(("head_dim", "linear_key_head_dim", "linear_value_head_dim"), 65_536),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 1_048_576),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"), 4_194_304),
    "vocab_size": 16_777_216,
}
_LARGEST_OR_ZERO = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), 65_536),
    **dict.fromkeys(("sliding_window", "linear_conv_kernel_dim"), 2**31),
    **dict.fromkeys(("altup_num_inputs", "o_groups"), 1024),
}
_REALS = {
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"), 1.0),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "rotary_emb_base"), 1e15),
}
"""From 0 on. Beyond, a model is built and computes no numbers."""
_MOST_LAYERS = 4096
"""Of anything a model builds in a loop: each is a Python object with arrays of its own, before a weight is read."""


def read_config(directory: Path) -> dict[str, Any]:
    """The checked config. Raises `InvalidModel`, `UnsafeModel`; messages name the file and field, never the path."""
    config = read_object(directory / "config.json")
    _refuse_nan(config)
    for part in parts(config):
        _check_part(part)
    if not _MODEL_TYPE.fullmatch(str(config.get("model_type", ""))):
        raise InvalidModel("config.json: model_type is missing or not a plain name.")
    return config


def context_tokens(config: Mapping[str, Any]) -> int:
    """Positions the model was made for."""
    for part in parts(config):
        for key in _CONTEXT_KEYS:
            if type(value := part.get(key)) is int and value > 0:
                return value
    return _UNSTATED_CONTEXT_TOKENS


def _check_part(part: Mapping[str, Any]) -> None:
    if part.get(_RUN_KEY):
        raise UnsafeModel(f"config.json: {_RUN_KEY} asks to run code that came with the model.")
    for key, largest in _LARGEST.items():
        _check_size(part, key, 1, largest)
    for key, largest in _LARGEST_OR_ZERO.items():
        _check_size(part, key, 0, largest)
    for key in _CONTEXT_KEYS:
        _check_size(part, key, 1, 2**40)
    for key, largest_real in _REALS.items():
        _check_real(part, key, largest_real)
    for key, value in part.items():
        count = value if type(value) is int else len(value) if isinstance(value, list | str) else 0
        if count > _MOST_LAYERS and ("layer" in key or "pattern" in key):
            raise InvalidModel(f"config.json: {key[:100]!r} counts more than {_MOST_LAYERS}.")


def _check_real(part: Mapping[str, Any], key: str, largest: float) -> None:
    value = part.get(key)
    for item in value if isinstance(value, list) else [value]:
        if item is not None and (type(item) not in (int, float) or not 0 <= item <= largest):
            raise InvalidModel(f"config.json: {key} must be a number from 0 to {largest:g}.")


def _refuse_nan(value: object, key: str = "") -> None:
    """Python reads `NaN` as JSON, and no model means it. Infinities are meant, as limits. The depth is bounded."""
    if isinstance(value, float) and math.isnan(value):
        raise InvalidModel(f"config.json: {key[:100]!r} is not a number.")
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_nan(item, name)
    elif isinstance(value, list):
        for item in value:
            _refuse_nan(item, key)


def _check_size(part: Mapping[str, Any], key: str, least: int, largest: int) -> None:
    """Absent and null are the architecture's business; some write one number per layer."""
    value = part.get(key)
    for item in value if isinstance(value, list) else [value]:
        if item is not None and (type(item) is not int or not least <= item <= largest):
            raise InvalidModel(f"config.json: {key} must be a whole number from {least} to {largest}.")

"""Tiny random models, one per architecture class, whose answers vary and depend on their context.

About 100k parameters, float32, a vocabulary of 512, made in a fraction of a second. The embeddings are untied: a tiny
random model with tied ones repeats one token for ever, and then token-equality tests pass with corrupted KV. Queries
and keys are scaled up so that attention is peaked and a token far back still decides. Use log-probabilities too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VOCAB_SIZE = 512
CONTEXT_TOKENS = 65_536
WINDOW_TOKENS = 40
EOS = "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", EOS)
MARKER_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
EOS_ID = 2

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": CONTEXT_TOKENS,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": EOS_ID,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "norm_topk_prob": True,
}
_LINEAR_ATTENTION: dict[str, Any] = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "partial_rotary_factor": 0.5,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "dense": {**_COMMON, "model_type": "qwen3", "num_hidden_layers": 2},
    "moe": {**_COMMON, **_EXPERTS, "model_type": "qwen3_moe", "num_hidden_layers": 2},
    "hybrid": {
        **_COMMON,
        **_LINEAR_ATTENTION,
        "model_type": "qwen3_5",
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "rope_parameters": {
            "type": "default",
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
    },
    "hybrid_moe": {
        **_COMMON,
        **_LINEAR_ATTENTION,
        **_EXPERTS,
        "model_type": "qwen3_next",
        "num_hidden_layers": 2,
    },
    "sliding": {
        **_COMMON,
        "model_type": "gemma3_text",
        "num_hidden_layers": 3,
        "sliding_window": WINDOW_TOKENS,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 16,
    },
    "sliding_sinks": {
        **_COMMON,
        "model_type": "gpt_oss",
        "num_hidden_layers": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 32,
        "sliding_window": WINDOW_TOKENS,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
        },
    },
}
ARCHITECTURES = tuple(CONFIGS)

CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_CORPUS = (
    "The quick brown fox jumps over the lazy dog while the model reads what the user said and the answer is written. ",
    "def main(argument: str) -> int:\n    return len(argument) + 1\n\n\nif __name__ == '__main__':\n    main('text')\n",
    '{"name": "read_file", "arguments": {"path": "src/main.py", "line": 12}}\n',
    "user assistant system tool message content role reasoning number count token prompt cache block session turn.\n",
)


def build(directory: Path, architecture: str, *, seed: int = 7, **changes: Any) -> Path:
    """Writes a model of a class of `ARCHITECTURES` and returns its directory. `changes` go into its config."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {**CONFIGS[architecture], **changes}
    (directory / "config.json").write_text(json.dumps(config))
    _write_weights(directory / "model.safetensors", config, seed)
    write_tokenizer(directory)
    return directory


def _write_weights(path: Path, config: dict[str, Any], seed: int) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    keys = iter(mx.random.split(mx.random.key(seed), 4096))
    gemma = config["model_type"].startswith("gemma")
    weights = {name: weight(name, array, next(keys), gemma) for name, array in tree_flatten(model.parameters())}
    mx.save_safetensors(str(path), weights, {"format": "mlx"})


def weight(name: str, array: Any, key: Any, gemma: bool) -> Any:
    """A random value for a parameter: attention is peaked, norms are neutral (gemma adds 1 to its own)."""
    import mlx.core as mx

    shape = array.shape
    if "q_norm" in name or "k_norm" in name:
        return mx.full(shape, 2.0 - gemma)
    if name.endswith("A_log"):
        return mx.log(mx.random.uniform(0.2, 2.0, shape, key=key))
    if name.endswith("dt_bias"):
        return mx.full(shape, -2.0)
    if len(shape) == 1 and "norm" in name:
        return mx.full(shape, 0.0 if gemma else 1.0)
    noise = mx.random.normal(shape, key=key)
    if len(shape) == 1:
        return noise * 0.1
    if name.endswith("embed_tokens.weight"):
        return noise / (shape[-1] ** 0.5 if gemma else 1.0)
    if name.endswith("conv1d.weight"):
        return noise * 0.5
    sharper = 2.0 if "q_proj" in name or "lm_head" in name else 1.0
    return noise * (sharper / shape[-1] ** 0.5)


def write_tokenizer(directory: Path) -> None:
    """A byte-level BPE tokenizer that fills the vocabulary, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(MARKER_TOKENS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text * 4 for text in _CORPUS], trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKER_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": CONTEXT_TOKENS,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS_ID, 0]}))


def prompt_ids(length: int, *, seed: int = 0, skip: Iterable[int] = (0, 1, 2)) -> tuple[int, ...]:
    """A varied prompt of `length` ids, the same for the same seed."""
    from random import Random

    rng, usable = Random(seed * 1_000_003 + length), sorted(set(range(VOCAB_SIZE)) - set(skip))
    return tuple(rng.choice(usable) for _ in range(length))

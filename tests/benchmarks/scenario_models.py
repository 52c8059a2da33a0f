"""Random models of 7 million parameters, one for each class of KV, for scenarios in which answers are sent back.

What a server answers must be read as the ids it wrote, whatever it strips: else every server computes the answers twice
and nothing is compared. So these models write words with a capital and without blanks (`FileClassError`), and their
tokenizer cuts before every capital. They never end by themselves.
"""

from __future__ import annotations

import importlib
import json
import re
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.tiny_models import CHAT_TEMPLATE, CONFIGS, EOS, EOS_ID, SPECIAL_TOKENS, weight

VERSION: Final = 2
VOCAB_SIZE: Final = 8192
CONTEXT_TOKENS: Final = 131_072
SIZE: Final[dict[str, Any]] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT_TOKENS,
}
"""As many KV heads as heads: MLX's attention on a CPU copies the KV otherwise."""
MODELS: Final[dict[str, dict[str, Any]]] = {
    "dense": {**CONFIGS["dense"], "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 4},
    "hybrid": {
        **CONFIGS["hybrid_moe"],
        "architectures": ["Qwen3NextForCausalLM"],
        "num_hidden_layers": 4,
        "num_experts": 0,
    },
    "sliding": {**CONFIGS["sliding"], "architectures": ["Gemma3ForCausalLM"], "sliding_window": 512},
}
"""The hybrid is no qwen3_5: transformers 5 reads the text of that type by rules of its own, whatever tokenizer.json
says, and then servers count different tokens."""


def scenario_model(kind: str) -> Path:
    """The directory of a model of one of `MODELS`; built on the first call."""
    directory = Path(tempfile.gettempdir()) / f"mlxd-scenario-model-{VERSION}-{kind}"
    if not (directory / "complete").exists():
        directory.mkdir(parents=True, exist_ok=True)
        config = {**MODELS[kind], **SIZE}
        _write_tokenizer(directory)
        _write_weights(directory, config)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "complete").touch()
    return directory


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex("[A-Z][a-z]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library = Path(sysconfig.get_paths()["stdlib"])
    tokenizer.train_from_iterator((path.read_text(errors="ignore") for path in sorted(library.glob("*.py"))), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": SPECIAL_TOKENS[0],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": CONTEXT_TOKENS,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS_ID]}))


def _write_weights(directory: Path, config: dict[str, Any]) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    keys = iter(mx.random.split(mx.random.key(11), 1024))
    gemma = config["model_type"].startswith("gemma")
    weights = {name: weight(name, array, next(keys), gemma) for name, array in tree_flatten(model.parameters())}
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    spoken = mx.array(_spoken(directory / "tokenizer.json"))[:, None]
    weights[head] = mx.where(spoken, weights[head], 0.0)
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})


def _spoken(tokenizer_json: Path) -> list[bool]:
    """Which tokens the model may write: words of a capital and two to eight small letters."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    texts = [tokenizer.decode([token]) for token in range(VOCAB_SIZE)]
    return [re.fullmatch("[A-Z][a-z]{2,8}", text) is not None for text in texts]

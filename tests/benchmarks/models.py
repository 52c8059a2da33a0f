"""A random qwen3 model of 34 million parameters, float32, made once and kept in the system's temporary directory.

Big enough that a decode step is mostly the model (20 to 30 ms on two slow cores), small enough to repeat. It
writes ASCII words only and never ends by itself: the output rows of every other token are zero. So both servers write
exactly `max_tokens` tokens, and each of them is text that a client sees at once.
"""

from __future__ import annotations

import json
import re
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any
from zlib import crc32

from tests.tiny_models import CHAT_TEMPLATE, EOS, EOS_ID, SPECIAL_TOKENS

VERSION = 2
VOCAB_SIZE = 8192
CONTEXT_TOKENS = 131_072
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2560,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": CONTEXT_TOKENS,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": EOS_ID,
}


SMALL = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 1}
"""Changes that make a model of 7 million parameters for what has to prefill 20,000 tokens several times.

MLX's attention on a CPU is slow and quadratic: with 4 layers of 4 heads 20,000 tokens took two minutes."""


def benchmark_model(**changes: Any) -> Path:
    """The directory of the model, `changes` in its config; built on the first call."""
    config = {**CONFIG, **changes}
    mark = crc32(repr(sorted(config.items())).encode())
    directory = Path(tempfile.gettempdir()) / f"mlxd-benchmark-model-{VERSION}-{mark:08x}"
    if not (directory / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        _write_tokenizer(directory)
        _write_weights(directory, config)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "complete").touch()
    return directory


def words(count: int, *, seed: int = 0) -> str:
    """`count` common words in a random order, another one for each seed."""
    from random import Random

    rng = Random(seed)
    return " ".join(rng.choice(_COMMON) for _ in range(count))


_COMMON = re.findall(
    r"[a-z]+",
    "the file value return import class error object name type list string function method module data "
    "text line index length result argument default option system process thread queue event message "
    "request response server client socket buffer reader writer token model prompt answer number count "
    "limit time start stop first last",
)


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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
    from mlx_lm.models import qwen3

    model = qwen3.Model(qwen3.ModelArgs.from_dict(dict(config)))
    keys = iter(mx.random.split(mx.random.key(11), 1024))
    weights = {name: _weight(name, array.shape, next(keys)) for name, array in tree_flatten(model.parameters())}
    spoken = mx.array(_spoken(directory / "tokenizer.json"))[:, None]
    weights["lm_head.weight"] = mx.where(spoken, weights["lm_head.weight"], 0.0)
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})


def _weight(name: str, shape: tuple[int, ...], key: Any) -> Any:
    import mlx.core as mx

    if len(shape) == 1:
        return mx.full(shape, 2.0 if "q_norm" in name or "k_norm" in name else 1.0)
    noise = mx.random.normal(shape, key=key)
    return noise if "embed_tokens" in name else noise * (2.0 / shape[-1] ** 0.5)


def _spoken(tokenizer_json: Path) -> list[bool]:
    """Which tokens the model may write: a space and two to eight ASCII letters."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    texts = [tokenizer.decode([token]) for token in range(VOCAB_SIZE)]
    return [text.startswith(" ") and text.isascii() and text[1:].isalpha() and 2 < len(text) <= 9 for text in texts]

"""A random qwen3 model with 151,936 ids, float32, for what costs per id of the vocabulary (masks, samplers).

Its tokens are the beginnings of words in Python's own library, by frequency: like a trained vocabulary it is a tree
in which most tokens go on with others, which is what a mask has to be computed over. Made in seconds, kept in the
system's temporary directory (0.3 GB).
"""

from __future__ import annotations

import json
import shutil
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

from tests.benchmarks.models import CONFIG
from tests.tiny_models import CHAT_TEMPLATE, EOS, SPECIAL_TOKENS

VERSION = 1
VOCAB_SIZE = 151_936
LONGEST_TOKEN = 16


def large_vocabulary_model(**changes: Any) -> Path:
    """The directory of the model, `changes` in its config; built on the first call."""
    config = {**CONFIG, "vocab_size": VOCAB_SIZE, "hidden_size": 256, "intermediate_size": 1024, **changes}
    mark = crc32(repr(sorted(config.items())).encode())
    directory = Path(tempfile.gettempdir()) / f"mlxd-benchmark-vocabulary-{VERSION}-{mark:08x}"
    if not (directory / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        _write_tokenizer(directory)
        _write_weights(directory / "model.safetensors", config)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "complete").touch()
    return directory


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    room = VOCAB_SIZE - len(SPECIAL_TOKENS)
    vocabulary = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in _words(byte_level):
        for end in range(2, min(len(word), LONGEST_TOKEN) + 1):
            if word[:end] not in vocabulary and len(vocabulary) < room:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    assert len(vocabulary) == room, "not enough words"
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS, "chat_template": CHAT_TEMPLATE}))
    eos_id = tokenizer.token_to_id(EOS)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos_id]}))


def _words(pre_tokenizer: Any) -> list[str]:
    """Words of the library, the most frequent first."""
    counted: Counter[str] = Counter()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in path.parts:
            counted.update(path.read_text(errors="ignore").replace("\n", " \n").split(" "))
    words: Counter[str] = Counter()
    for text, times in counted.items():
        for piece, _ in pre_tokenizer.pre_tokenize_str(f" {text}"):
            words[piece] += times
    return [word for word, _ in words.most_common()]


def _write_weights(path: Path, config: dict[str, Any]) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen3

    model = qwen3.Model(qwen3.ModelArgs.from_dict(dict(config)))
    keys = iter(mx.random.split(mx.random.key(11), 1024))

    def weight(array: Any) -> Any:
        shape = array.shape
        return mx.ones(shape) if len(shape) == 1 else mx.random.normal(shape, key=next(keys)) * shape[-1] ** -0.5

    weights = {name: weight(array) for name, array in tree_flatten(model.parameters())}
    mx.save_safetensors(str(path), weights, {"format": "mlx"})

"""Tiny random models whose answers read back as the ids that were written, however they are sent.

A random model writes bytes that are no text, and pieces that a tokenizer joins differently: echoed, its answers are
other tokens, and nobody could reuse what was computed for them. These write words only (` house door`), every one of
them a token, and now and then the end of the turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxd.probe.content import prose
from tests import tiny_models

THINKING_TEMPLATE = """{%- set last = namespace(user=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.index0 > last.user and message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{{- (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
"""Thoughts are opened by the header, and dropped from every answer before the user's last message."""


def build(
    directory: Path,
    architecture: str,
    *,
    template: str = tiny_models.CHAT_TEMPLATE,
    corpus: Iterable[str] = (),
    **changes: Any,
) -> Path:
    """A model of a class of `tiny_models.ARCHITECTURES` and its directory. `corpus` is more text that it reads well."""
    tiny_models.build(directory, architecture, **changes)
    _write_tokenizer(directory / "tokenizer.json", corpus, changes.get("vocab_size", tiny_models.VOCAB_SIZE))
    (directory / "chat_template.jinja").write_text(template)
    settings = json.loads((directory / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    _silence(directory)
    return directory


def _write_tokenizer(path: Path, corpus: Iterable[str], size: int) -> None:
    """As that of the tiny models, but trained on what the probe says: most of its words are single tokens."""
    from tokenizers import AddedToken, Tokenizer, trainers

    markers = [AddedToken(text, special=False, normalized=False) for text in tiny_models.MARKER_TOKENS]
    tokenizer = Tokenizer.from_file(str(path))
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(markers),
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in tiny_models.SPECIAL_TOKENS],
        initial_alphabet=sorted({tokenizer.id_to_token(at) for at in range(256 + 3)} - set(tiny_models.SPECIAL_TOKENS)),
        show_progress=False,
    )
    tokenizer.train_from_iterator([prose("train", 20_000).lower(), *corpus], trainer)
    tokenizer.add_tokens(markers)
    tokenizer.save(str(path))


def _silence(directory: Path) -> None:
    """Words and the end of a turn keep their random logits; all else has 0, which some word is always above."""
    import mlx.core as mx

    path = directory / "model.safetensors"
    weights = dict(mx.load(str(path)))  # type: ignore[arg-type]
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    words = spoken(directory)
    kept = [one == tiny_models.EOS_ID or one in words for one in range(weights[head].shape[0])]
    weights[head] = mx.where(mx.array(kept)[:, None], weights[head], 0.0)
    mx.save_safetensors(str(path), weights, {"format": "mlx"})


def spoken(directory: Path) -> frozenset[int]:
    """Ids of a blank and letters that a tokenizer gives for their own text, wherever it stands."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = {one: tokenizer.decode([one]) for one in range(tokenizer.get_vocab_size())}
    words = {one for one, text in texts.items() if text[:1] == " " and text[1:].isascii() and text[1:].isalpha()}
    return frozenset(
        one for one in words if tokenizer.encode(texts[one] * 2, add_special_tokens=False).ids == [one] * 2
    )

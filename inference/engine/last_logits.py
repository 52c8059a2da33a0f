"""What follows the last token of a piece, without what follows its other tokens.

A model of mlx-lm computes logits for every token it is given, and only one row of them is wanted of a piece of prompt:
for 256 tokens and 152k ids the others would be 155 MB and as much work as several layers. Models have no door for
that, but their last layer is found under one of two names; while a call is put together, one that passes on the last
token takes its place. Nothing is computed in that time and weights are not touched.

The same is done to the feed-forward part of the last block, most of that block's work, where it is found: what it gives
of the last token is added to all of them, which is right for the last, and nobody asks for the others. That this holds
is tried out on three tokens when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from inference.engine.mlx_lm_door import make_prompt_cache

type Places = tuple[tuple[nn.Module, str], ...]

_TRIED_IDS = (2, 1, 0)
_TOLERANCE = 0.05
"""Of the range of the logits. Half precision differs by a hundredth of it where the order of sums does."""


class LastLogits:
    """One model's. `narrows`: nothing speaks against it yet; a model that computes all logits is found out in its first
    call, whose result is right all the same. `narrows_block`: so is most of what the last block computes.
    """

    def __init__(self, model: Any) -> None:
        self._places = tuple(_places(model))
        self.narrows = bool(self._places)
        block = _feed_forward(model) if self.narrows else ()
        self.narrows_block = bool(block) and _agree(model, self._places, (*self._places, *block))
        if self.narrows_block:
            self._places += block

    def __call__(self, model: Any, inputs: Any, cache: list[Any]) -> Any:
        """Logits behind the last of `inputs`, (rows, tokens): (rows, vocabulary), unevaluated."""
        with _narrowed(self._places):
            logits = model(inputs, cache=cache)
        self.narrows = self.narrows and logits.shape[1] == 1
        return logits[:, -1, :]

    def forget(self) -> None:
        """Lets go of the model's layers."""
        self._places, self.narrows, self.narrows_block = (), False, False


def _places(model: Any) -> Iterator[tuple[nn.Module, str]]:
    """Where a model's last layer may be: `lm_head`, or the embedding where that is used both ways."""
    if not isinstance(model, nn.Module):
        return
    for _, module in model.named_modules():
        for name, child in module.items():
            if isinstance(child, nn.Module) and (name == "lm_head" or hasattr(child, "as_linear")):
                yield module, name


def _feed_forward(model: nn.Module) -> Places:
    """Where the last block has it, under the name that two thirds of mlx-lm's models give it."""
    block = (getattr(model, "layers", None) or [None])[-1]
    return ((block, "mlp"),) if isinstance(block, nn.Module) and isinstance(block.get("mlp"), nn.Module) else ()


def _agree(model: Any, places: Places, more: Places) -> bool:
    """Whether the logits of a few tokens are the same with `more` places narrowed."""

    def logits(narrow: Places) -> Any:
        with _narrowed(narrow):
            return model(mx.array([_TRIED_IDS]), cache=make_prompt_cache(model))[:, -1, :].astype(mx.float32)

    try:
        plain = logits(places)
        gap = mx.abs(plain - logits(more)).max()
        return bool((gap <= _TOLERANCE * (plain.max() - plain.min())).item())
    except Exception:  # whatever it makes of one token where it expects all
        return False


@contextmanager
def _narrowed(places: Sequence[tuple[nn.Module, str]]) -> Iterator[None]:
    kept = [module[name] for module, name in places]
    try:
        for (module, name), layer in zip(places, kept, strict=True):
            module[name] = _Embedding(layer) if hasattr(layer, "as_linear") else _LastToken(layer)
        yield
    finally:
        for (module, name), layer in zip(places, kept, strict=True):
            module[name] = layer


class _Layer:
    """In the place of a layer, and like it but for what a subclass says."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class _LastToken(_Layer):
    def __call__(self, hidden: Any, *more: Any, **named: Any) -> Any:
        return self._layer(hidden[:, -1:], *more, **named)


class _Embedding(_Layer):
    def __call__(self, ids: Any) -> Any:
        return self._layer(ids)

    def as_linear(self, hidden: Any) -> Any:
        return self._layer.as_linear(hidden[:, -1:])

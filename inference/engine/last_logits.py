"""What follows the last token of a piece, without what follows its other tokens.

A model of mlx-lm computes logits for every token it is given, and only one row of them is wanted of a piece of prompt:
for 256 tokens and 152k ids the others would be 155 MB and as much work as several layers. Models have no door for
that, but their last layer is found under one of two names; while a call is put together, one that passes on the last
token takes its place. Nothing is computed in that time and weights are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn


class LastLogits:
    """One model's. `narrows`: nothing speaks against it yet; a model that computes all logits is found out in its first
    call, whose result is right all the same.
    """

    def __init__(self, model: Any) -> None:
        self._places = tuple(_places(model))
        self.narrows = bool(self._places)

    def __call__(self, model: Any, inputs: Any, cache: list[Any]) -> Any:
        """Logits behind the last of `inputs`, (rows, tokens): (rows, vocabulary), unevaluated."""
        with _narrowed(self._places):
            logits = model(inputs, cache=cache)
        self.narrows = self.narrows and logits.shape[1] == 1
        return logits[:, -1, :]

    def forget(self) -> None:
        """Lets go of the model's layers."""
        self._places, self.narrows = (), False


def _places(model: Any) -> Iterator[tuple[nn.Module, str]]:
    """Where a model's last layer may be: `lm_head`, or the embedding where that is used both ways."""
    if not isinstance(model, nn.Module):
        return
    for _, module in model.named_modules():
        for name, child in module.items():
            if isinstance(child, nn.Module) and (name == "lm_head" or hasattr(child, "as_linear")):
                yield module, name


@contextmanager
def _narrowed(places: Sequence[tuple[nn.Module, str]]) -> Iterator[None]:
    kept = [module[name] for module, name in places]
    try:
        for (module, name), layer in zip(places, kept, strict=True):
            module[name] = _Head(layer) if name == "lm_head" else _Embedding(layer)
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


class _Head(_Layer):
    def __call__(self, hidden: Any) -> Any:
        return self._layer(hidden[:, -1:])


class _Embedding(_Layer):
    def __call__(self, ids: Any) -> Any:
        return self._layer(ids)

    def as_linear(self, hidden: Any) -> Any:
        return self._layer.as_linear(hidden[:, -1:])

"""What follows the last token of a piece, without what follows its other tokens.

A model of mlx-lm computes logits for every token it is given, and only one row of them is wanted of a piece of prompt:
for 256 tokens and 152k ids the others would be 155 MB and as much work as several layers. Models have no door for
that, but their last layer is found under one of two names; while a call is put together, one that passes on the last
token takes its place. Nothing is computed in that time and weights are not touched.

The same is done to the feed-forward part of the last block, most of that block's work, where it is found: what it gives
of the last token is added to all of them, which is right for the last, and nobody asks for the others. That this holds
is tried out on three tokens when the model is loaded: what that part is given and gives of the others is spoilt, and
the last one's logits must keep every bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from inference.engine.mlx_lm_door import make_prompt_cache

log = logging.getLogger(__name__)

type Places = tuple[tuple[nn.Module, str], ...]
type Stand = Callable[[Any], Any]
"""Makes what stands in a layer's place for a while."""

_TRIED_IDS = (2, 1, 0)
_TOLERANCE = 0.05
"""Of the range of the logits. Sums over one token are ordered otherwise than over three; half precision differs by a
hundredth of it for that.
"""


class LastLogits:
    """One model's. `narrows`: nothing speaks against it yet; a model that computes all logits is found out in its first
    call, whose result is right all the same. `narrows_block`: so is most of what the last block computes.
    """

    def __init__(self, model: Any) -> None:
        self._places = tuple(_places(model))
        self.narrows = bool(self._places)
        block = _feed_forward(model) if self.narrows else ()
        self.narrows_block = bool(block) and _agree(model, self._places, block)
        if self.narrows_block:
            self._places += block

    def __call__(self, model: Any, inputs: Any, cache: list[Any]) -> Any:
        """Logits behind the last of `inputs`, (rows, tokens): (rows, vocabulary), unevaluated."""
        with _in_place_of(self._places, _last_only):
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


def _agree(model: Any, places: Places, block: Places) -> bool:
    """Whether the last token's logits are the same whatever `block` makes of the others, and without its reading them.

    The first is exact: three tokens either way, so what is computed of the last one is the same to the bit.
    """

    def logits(stand: Stand) -> Any:
        with _in_place_of(places, _last_only), _in_place_of(block, stand):
            return model(mx.array([_TRIED_IDS]), cache=make_prompt_cache(model))[:, -1, :].astype(mx.float32)

    try:
        plain, spoilt, alone = logits(_itself), logits(_OthersSpoilt), logits(_LastToken)
        close = mx.abs(plain - alone).max() <= _TOLERANCE * (plain.max() - plain.min())
        return bool(mx.array_equal(plain, spoilt).item()) and bool(close.item())
    except Exception as error:  # whatever it makes of one token where it expects all
        log.info("the last block of this model is given all tokens: %s", type(error).__name__)
        return False


@contextmanager
def _in_place_of(places: Sequence[tuple[nn.Module, str]], stand: Stand) -> Iterator[None]:
    kept = [module[name] for module, name in places]
    try:
        for (module, name), layer in zip(places, kept, strict=True):
            module[name] = stand(layer)
        yield
    finally:
        for (module, name), layer in zip(places, kept, strict=True):
            module[name] = layer


def _itself(layer: Any) -> Any:
    return layer


def _last_only(layer: Any) -> Any:
    return _Embedding(layer) if hasattr(layer, "as_linear") else _LastToken(layer)


class _Layer:
    """In the place of a layer, and like it but for what a subclass says."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class _LastToken(_Layer):
    def __call__(self, hidden: Any, *more: Any, **named: Any) -> Any:
        return self._layer(hidden[:, -1:], *more, **named)


class _OthersSpoilt(_Layer):
    def __call__(self, hidden: Any, *more: Any, **named: Any) -> Any:
        return _spoilt(self._layer(_spoilt(hidden), *more, **named))


def _spoilt(hidden: Any) -> Any:
    """(rows, tokens, size): all tokens but the last are something else."""
    return mx.concatenate([hidden[:, :-1] * -8 + 1, hidden[:, -1:]], axis=1)


class _Embedding(_Layer):
    def __call__(self, ids: Any) -> Any:
        return self._layer(ids)

    def as_linear(self, hidden: Any) -> Any:
        return self._layer.as_linear(hidden[:, -1:])

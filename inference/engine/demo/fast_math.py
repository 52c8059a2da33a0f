"""Training-time replacements for the three slow spots of MLX on a CPU.

Not known here: models, data, loss. On x86 the ``exp`` of MLX 0.32 costs 20 to 30 ns an element (one scalar call each),
which was four fifths of a training step of this small model. A polynomial ``exp`` (relative error below 4e-7) in
compiled kernels costs 5 ns. Only the training uses it; the finished model runs on MLX's own operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models import qwen3

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453


def fast_exp(x: mx.array) -> mx.array:
    """exp(x) = 2**n * exp(r) with |r| <= ln(2)/2: a polynomial for exp(r), bits of the exponent for 2**n."""
    x = mx.clip(x, -60.0, 60.0)  # no denormal results: one in a matmul costs a hundred times a normal number
    n = mx.floor(x * LOG2_E + 0.5)
    r = x - n * LN_2
    p = 1 + r * (1 + r * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r / 720)))))
    return p * ((n + 127).astype(mx.int32) << 23).view(mx.float32)


@mx.compile
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate * x / (1 + fast_exp(-gate))


@mx.compile
def _swiglu_grads(gate: mx.array, x: mx.array, dy: mx.array) -> tuple[mx.array, mx.array]:
    s = 1 / (1 + fast_exp(-gate))
    return dy * x * s * (1 + gate * (1 - s)), dy * gate * s


@mx.custom_function
def fast_swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x, as mlx_lm.models.activations.swiglu."""
    return _swiglu(gate, x)


@fast_swiglu.vjp
def _fast_swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    return _swiglu_grads(gate, x, cotangent)


_compiled_exp = mx.compile(fast_exp)


def _exp_below(scores: mx.array, top: mx.array) -> mx.array:
    # Subtracted outside: a broadcast inside makes the compiled kernel three times slower.
    return _compiled_exp(scores - top)


@mx.custom_function
def fast_softmax(scores: mx.array) -> mx.array:
    """softmax over the last axis."""
    e = _exp_below(scores, scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@fast_softmax.vjp
def _fast_softmax_vjp(_: mx.array, cotangent: mx.array, p: mx.array) -> mx.array:
    return p * (cotangent - (p * cotangent).sum(axis=-1, keepdims=True))


def fast_attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, cache: Any, scale: float, mask: Any
) -> mx.array:
    """Causal attention, (batch, heads, length, head_dim); query heads of one key head go through one matmul."""
    batch, heads, length, dim = queries.shape
    groups = keys.shape[1]
    q = (queries * scale).reshape(batch, groups, -1, dim)
    bias = mx.where(mx.tri(length) > 0, 0.0, -1e9)
    scores = (q @ keys.swapaxes(-1, -2)).reshape(batch, heads, length, length) + bias
    weights: Any = fast_softmax(scores)
    out: mx.array = weights.reshape(batch, groups, -1, length) @ values
    return out.reshape(batch, heads, length, dim)


@mx.custom_function
def fast_cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Cross entropy in nats for each row of (rows, vocabulary)."""
    top = logits.max(axis=-1, keepdims=True)
    total = _exp_below(logits, top).sum(axis=-1)
    picked = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.log(total) + top[:, 0] - picked


@fast_cross_entropy.vjp
def _fast_cross_entropy_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    e = _exp_below(logits, logits.max(axis=-1, keepdims=True))
    scaled = e * (cotangent / e.sum(axis=-1))[:, None]
    picked = mx.take_along_axis(scaled, targets[:, None], axis=-1) - cotangent[:, None]
    return mx.put_along_axis(scaled, targets[:, None], picked, axis=-1), mx.zeros_like(targets)


@contextmanager
def fast_model_math() -> Iterator[None]:
    """While open, mlx_lm's qwen3 computes attention and swiglu by the functions above."""
    slow = qwen3.swiglu, qwen3.scaled_dot_product_attention
    qwen3.swiglu, qwen3.scaled_dot_product_attention = fast_swiglu, fast_attention
    try:
        yield
    finally:
        qwen3.swiglu, qwen3.scaled_dot_product_attention = slow

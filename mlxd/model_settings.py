"""What one model is set to, apart from what holds for all. A value that is absent is decided by the next layer.

request > the model's settings > the process's settings > the model's own files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

type Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Names of `sampling` are those of `SamplingParams`, and `max_tokens`. `template_args` go to its chat template.

    `pinned`: it leaves memory by an order only. `ttl_s`: how long it may be idle there (0: for ever). `kv_bits` and its
    two companions are for requests that say nothing of quantised KV; `reuse` holds from the next load on.
    """

    aliases: tuple[str, ...] = ()
    pinned: bool | None = None
    ttl_s: float | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    thinking: bool | None = None
    preserve_thinking: bool | None = None
    template_args: Mapping[str, Scalar] = field(default_factory=dict)
    kv_bits: int | None = None
    kv_group_size: int | None = None
    quantized_kv_start: int | None = None
    reuse: str | None = None
    volatile: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is set, as JSON values."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None or value == () or value == {}:
                continue
            found[one.name] = (
                list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            )
        return found

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From values that were checked; a null is the same as none, and so is what a later version has saved."""
        known = {one.name for one in fields(cls)}
        given = {name: value for name, value in values.items() if value is not None and name in known}
        if "aliases" in given:
            given["aliases"] = tuple(given["aliases"])
        return cls(**given)

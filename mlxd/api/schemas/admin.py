"""Bodies of the admin API. Unlike an agent's, an admin's extra field is a mistake, and is told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from mlxd.api.schemas.types import INT32_MAX, Body, Count, Integral, Name

Place = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""An id, an alias or a directory."""
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Amount = Annotated[int, Field(ge=0, le=INT32_MAX), Integral]


class AdminBody(Body):
    """Strict: nothing unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class LoadOrder(AdminBody):
    """Which model to bring into memory. `name`: what clients call it, for a model that is not served yet.

    `wait`: answer when it is there (the default), not at once.
    """

    model_id: Place | None = None
    name: Name | None = None
    wait: bool | None = None


class UnloadOrder(AdminBody):
    """Which model to free; without one all. `force` ends its requests, `drain` lets running answers end first."""

    model_id: Place | None = None
    force: bool | None = None
    drain: bool | None = None


class ModelCache(AdminBody):
    """How many models may be in memory, and for how long an idle one (0: for ever)."""

    max_size: Annotated[int, Field(ge=1, le=64), Integral] | None = None
    ttl_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None


class Sampling(AdminBody):
    """How tokens are drawn where a request does not say."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Amount | None = None
    min_p: Unit | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_context_tokens: Amount | None = None
    max_tokens: Count | None = None


class OwnSettings(AdminBody):
    """What one model is set to; what is absent is decided by the settings of all."""

    aliases: Annotated[list[Name], Field(max_length=32)] | None = None
    pinned: bool | None = None
    ttl_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    sampling: Sampling | None = None
    thinking: bool | None = None
    preserve_thinking: bool | None = None
    template_args: Annotated[dict[Name, str | int | float | bool], Field(max_length=32)] | None = None
    kv_bits: Annotated[Literal[4, 8], Integral] | None = None
    kv_group_size: Annotated[Literal[32, 64, 128], Integral] | None = None
    quantized_kv_start: Amount | None = None
    reuse: Annotated[str, StringConstraints(pattern="^(token|bitwise)$")] | None = None
    volatile: Name | None = None

    def as_values(self) -> dict[str, Any]:
        """What was sent, without nulls."""
        return self.model_dump(exclude_none=True)

"""What one model may be set to, as it stands in an admin's order and in `settings.json`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from mlxd.config.model_argument import MAX_NAME_CHARS, MODEL_NAME

INT32_MAX: Final = 2**31 - 1


def _integral(value: Any) -> Any:
    """5.0 for 5: some clients have one type of numbers."""
    return int(value) if type(value) is float and value.is_integer() else value


Integral = BeforeValidator(_integral)
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=f"^{MODEL_NAME}$")]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Amount = Annotated[int, Field(ge=0, le=INT32_MAX), Integral]


class Strict(BaseModel):
    """No coercion, and nothing unknown: an admin's extra field is a mistake."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class Sampling(Strict):
    """How tokens are drawn where a request does not say."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Amount | None = None
    min_p: Unit | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_context_tokens: Amount | None = None
    max_tokens: Annotated[int, Field(ge=1, le=INT32_MAX), Integral] | None = None


class OwnSettings(Strict):
    """What one model is set to; what is absent is decided by the settings of all."""

    aliases: Annotated[list[ModelName], Field(max_length=32)] | None = None
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

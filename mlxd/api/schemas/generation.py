"""The fields that both kinds of completion share: how tokens are drawn, when the answer ends, how it is sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from mlxd.api.schemas.formats import FormatFields
from mlxd.api.schemas.types import INT32_MAX, INT64_MAX, Body, Count, Integral, Label, Name

Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class StreamOptions(Body):
    include_usage: bool | None = None


class GenerationRequest(FormatFields):
    """Ranges are OpenAI's where OpenAI has the field, else those of the engines clients know it from.

    Fields typed `Any` are known and not offered, which `refusals` judges, or have many forms.
    """

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32_MAX), Integral] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    repetition_context_size: Annotated[int, Field(ge=0, le=INT32_MAX), Integral] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=INT32_MAX), Integral] | None = None
    seed: Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX), Integral] | None = None

    stop: Annotated[list[StopString], Field(max_length=4, fail_fast=True), BeforeValidator(_listed)] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64, fail_fast=True)] | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0, le=INT32_MAX), Integral] | None = None
    ignore_eos: bool | None = None

    n: Annotated[int, Field(ge=1, le=8), Integral] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    kv_bits: Annotated[Literal[4, 8], Integral] | None = None
    kv_group_size: Annotated[Literal[32, 64, 128], Integral] | None = None
    quantized_kv_start: Annotated[int, Field(ge=0, le=INT32_MAX), Integral] | None = None
    bad_words: Any = None
    prompt_logprobs: Any = None
    cache_salt: Annotated[Name, StringConstraints(max_length=256)] | None = None

    user: Label | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "standard_only"] | None = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    session_id: Label | None = None
    conversation_id: Label | None = None
    thread_id: Label | None = None
    chat_id: Label | None = None
    conversation: Any = None
    client_metadata: Any = None

"""`POST /v1/completions`: a raw prompt, continued."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mlxd.api.schemas.generation import GenerationRequest
from mlxd.api.schemas.types import Integral


class CompletionRequest(GenerationRequest):
    """`prompt` is a string, token ids, or a list of either; `convert` reads it, because only a model knows its ids."""

    prompt: Any
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=8), Integral] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5), Integral] | None = None

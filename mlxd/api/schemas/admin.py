"""Bodies of the admin API. Unlike an agent's, an admin's extra field is a mistake, and is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from mlxd.api.schemas.types import Body, Integral
from mlxd.model_schema import ModelName

Place = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""An id, an alias or a directory."""


class AdminBody(Body):
    """Strict: nothing unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class LoadOrder(AdminBody):
    """Which model to bring into memory. `name`: what clients call it, for a model that is not served yet.

    `wait`: answer when it is there (the default), not at once.
    """

    model_id: Place | None = None
    name: ModelName | None = None
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

"""The functions a request offers to the model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints

from mlxd.api.schemas.types import Body, Tag

ToolName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]*$")]


class FunctionItem(Body):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolItem(Body):
    """`function` is required when `type` is `function`, the only type offered; `convert` says so."""

    type: Tag
    function: FunctionItem | None = None

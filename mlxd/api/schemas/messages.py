"""One message of a chat, as the OpenAI dialect writes it and as real agents echo it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints
from pydantic import Tag as UnionTag
from pydantic_core import PydanticCustomError

from mlxd.api.schemas.types import Body, Name, Tag


class Part(Body):
    """A piece of a content list. Which other fields must be there depends on `type`; `convert` knows."""

    type: Tag
    text: str | None = None
    refusal: str | None = None


def _written(value: Any) -> Any:
    if value is None or isinstance(value, str | dict | list):
        return value
    raise PydanticCustomError("string_type", "must be a string")


class FunctionCall(Body):
    """`arguments` is text the model once wrote, so anything is taken: a conversation must not wedge on it."""

    name: Name
    arguments: Annotated[Any, AfterValidator(_written)] = None


class ToolCallItem(Body):
    id: Name
    function: FunctionCall


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<parts>" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, UnionTag("<text>")] | Annotated[list[Part], Field(fail_fast=True), UnionTag("<parts>")],
    Discriminator(_form),
]


class MessageItem(Body):
    """`reasoning` may also be an object in other dialects; only a string is an echo of ours."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCallItem], Field(fail_fast=True)] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: Name | None = None
    name: Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")] | None = None

"""The fields that say what an answer must look like: OpenAI's `response_format` and the spellings of other servers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from mlxd.api.schemas.types import Body

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=65_536)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=4_096)]
Choices = Annotated[list[Choice], Field(min_length=1, max_length=4_096, fail_fast=True)]


class JsonSchemaFormat(Body):
    """`strict` is accepted either way: a schema is always enforced."""

    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    description: str | None = None
    schema_: Annotated[Any, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Body):
    """`grammar` and `structural_tag` are known and not offered; `formats` says so."""

    json_: Annotated[Any, Field(alias="json")] = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Any = None
    json_object: bool | None = None
    structural_tag: Any = None


class FormatFields(Body):
    response_format: ResponseFormat | None = None
    guided_json: Any = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Any = None
    structured_outputs: StructuredOutputs | None = None

"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mlxd.api.schemas.generation import GenerationRequest
from mlxd.api.schemas.messages import MessageItem
from mlxd.api.schemas.tools import ToolItem
from mlxd.api.schemas.types import Count, Integral, Tag


class ChatRequest(GenerationRequest):
    """The fields about thinking have many forms; `reasoning` reads those typed `Any`."""

    messages: Annotated[list[MessageItem], Field(min_length=1, fail_fast=True)]
    tools: Annotated[list[ToolItem], Field(max_length=512, fail_fast=True)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None

    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Integral] | None = None

    enable_thinking: bool | None = None
    thinking: Any = None
    think: Any = None
    reasoning: Any = None
    reasoning_effort: Any = None
    thinking_budget: Any = None
    thinking_token_budget: Any = None
    reasoning_budget: Any = None
    include_reasoning: Any = None
    preserve_thinking: bool | None = None
    clear_thinking: bool | None = None
    extra_body: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    chat_template: Any = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    modalities: list[Tag] | None = None
    audio: Any = None
    web_search_options: Any = None

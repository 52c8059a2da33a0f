"""Parts of requests, right and wrong, for the tables of inputs."""

from __future__ import annotations

from typing import Any

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "read", **function}}


def turns(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


def user(**fields: Any) -> dict[str, Any]:
    return turns({"role": "user", **fields})


def calls(*items: Any, **fields: Any) -> dict[str, Any]:
    return turns({"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": list(items), **fields})


def call(**fields: Any) -> dict[str, Any]:
    return {**CALL, **fields}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"p": schema}
    return schema

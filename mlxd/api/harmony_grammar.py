"""Answers made of harmony's messages (gpt-oss): perhaps a thought, then the one message that is asked for.

    <|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>CONTENT
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}

The prompt has written `<|start|>assistant`. A model of this format stops at the end of a call, so an answer holds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inference.messages import Tool
from mlxd.api.lark import literal, text_until

Marker = Callable[[str], str]


def frame(marker: Marker, goals: Sequence[str], thought_tokens: int | None = None) -> list[str]:
    """The rules of a whole answer that ends in one of `goals`: `content`, `calls`.

    Its thought has at most `thought_tokens`: 0 is no thought, None no limit.
    """
    opened = marker("<|channel|>")
    ends = [f"{opened} said" if goal == "content" else f"{opened} calls" for goal in goals]
    rules = [f"start: {'' if thought_tokens == 0 else 'thought? '}({' | '.join(ends)})"]
    if thought_tokens != 0:
        body = f'{opened} "analysis" {marker("<|message|>")} thought_text {marker("<|start|>")} "assistant"'
        rules.append(f"thought: {body}")
        rules.append(text_until("thought_text", marker("<|end|>"), "<|end|>", thought_tokens))
    return [*rules, f'said: "final" {marker("<|message|>")} content'] if "content" in goals else rules


def calls(marker: Marker, tools: Sequence[Tool], arguments: Callable[[Tool], str]) -> list[str]:
    """The rule `calls`: one of the tools."""
    behind = f'{marker("<|constrain|>")} "json" {marker("<|message|>")}'
    written = [f"{literal(f'commentary to=functions.{tool.name} ')} {behind} {arguments(tool)}" for tool in tools]
    return [f"calls: {' | '.join(written)}"]

"""Small conversations with the paths that a request would give them."""

from __future__ import annotations

from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall

LONG = "The model reads what the user said and the answer is written. " * 3


def message(number: int, role: str, text: str = "", *calls: ToolCall, reasoning: str = "") -> Message:
    path = f"messages[{number}]"
    parts = (TextPart(text, f"{path}.content"),) if text else ()
    return Message(Role(role), parts, reasoning=reasoning, tool_calls=calls, path=path)


def talk(*texts: str, tools: tuple[Tool, ...] = ()) -> Conversation:
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    return Conversation(
        tuple(message(at, role, text) for at, (role, text) in enumerate(zip(roles, texts, strict=False))), tools
    )


def tool(number: int, name: str, about: str = "Reads a file") -> Tool:
    return Tool(
        name,
        about,
        {"type": "object", "properties": {"secret_key": {"type": "string"}}},
        path=f"tools[{number}].function",
    )

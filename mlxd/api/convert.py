"""A validated chat request as the one internal conversation, every piece with the JSON path it came from.

Roles: `developer` is `system`; systems stay where they stand; messages of one role in a row stay apart. What a client
echoes of an earlier answer (reasoning, calls) is kept as it was sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from inference.errors import ModelHasNoVision, UnsupportedParameter
from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall
from mlxd.api.errors import InvalidField
from mlxd.api.json_schema import MAX_SCHEMA_BYTES, schema_bytes
from mlxd.api.schemas import ChatRequest
from mlxd.api.schemas.messages import FunctionCall, MessageItem, Part, ToolCallItem
from mlxd.api.schemas.tools import ToolItem
from mlxd.api.tool_choice import tool_choice
from mlxd.api.validate import MISSING

_ROLES: Final = {"developer": Role.SYSTEM, "function": Role.TOOL}
_TEXT_FIELDS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_VISUAL: Final = frozenset({"image", "image_url", "input_image", "video", "video_url", "input_video"})


def convert_chat(request: ChatRequest) -> Conversation:
    """Everything but `template_args`, for which `reasoning` must know the model.

    Raises `InvalidField`, `UnsupportedParameter` or `ModelHasNoVision`, each with its path.
    """
    choice = tool_choice(request)
    offered = _tools(request.tools or ()) if choice.offered else ()
    return Conversation(
        messages=tuple(_message(item, f"messages[{i}]") for i, item in enumerate(request.messages)),
        tools=tuple(tool for tool in offered if choice.shows(tool.name)),
        continue_final=_continue_final(request),
    )


def _message(item: MessageItem, path: str) -> Message:
    role = _ROLES.get(item.role) or Role(item.role)
    parts = _parts(item, path)
    if role is Role.ASSISTANT:
        return Message(
            role,
            parts or _refusal(item, path),
            reasoning=item.reasoning_content or (item.reasoning if isinstance(item.reasoning, str) else ""),
            tool_calls=_tool_calls(item, path),
            path=path,
        )
    if item.tool_calls:
        raise InvalidField(f"{path}.tool_calls is only for the role assistant.", param=f"{path}.tool_calls")
    if role is Role.TOOL:
        name = item.name or ""
        return Message(role, parts, tool_call_id=_answered_call(item, path), name=name, path=path)
    return Message(role, parts, path=path)


def _parts(item: MessageItem, path: str) -> tuple[TextPart, ...]:
    content, at = item.content, f"{path}.content"
    if isinstance(content, str):
        return (TextPart(content, at),) if content else ()
    if content:
        return tuple(part for i, piece in enumerate(content) if (part := _part(piece, f"{at}[{i}]")).text)
    if item.role == "assistant":  # null, [] and absent: a turn of calls or of reasoning alone, or an interrupted one
        return ()
    if content is None:
        raise InvalidField(f"{at} is required for the role {item.role}.", param=at, code=MISSING)
    raise InvalidField(f"{at} must have at least 1 item.", param=at)


def _part(part: Part, path: str) -> TextPart:
    if part.type in _VISUAL:
        raise ModelHasNoVision("This model reads text only; send the message without the image.", param=path)
    field = _TEXT_FIELDS.get(part.type)
    if field is None:
        raise UnsupportedParameter(f"{path}.type must be text: no other content is offered.", param=f"{path}.type")
    text: str | None = getattr(part, field)
    if text is None:
        raise InvalidField(f"{path}.{field} is required.", param=f"{path}.{field}", code=MISSING)
    return TextPart(text, f"{path}.{field}")


def _refusal(item: MessageItem, path: str) -> tuple[TextPart, ...]:
    return (TextPart(item.refusal, f"{path}.refusal"),) if item.refusal else ()


def _answered_call(item: MessageItem, path: str) -> str:
    if item.tool_call_id is not None:
        return item.tool_call_id
    field = "name" if item.role == "function" else "tool_call_id"
    if getattr(item, field):
        return ""
    raise InvalidField(f"{path}.{field} is required.", param=f"{path}.{field}", code=MISSING)


def _tool_calls(item: MessageItem, path: str) -> tuple[ToolCall, ...]:
    calls = item.tool_calls or []
    _refuse_repeated_ids(calls, path)
    made = tuple(ToolCall(call.id, call.function.name, _arguments(call.function)) for call in calls)
    if item.function_call is not None:
        return (*made, ToolCall("", item.function_call.name, _arguments(item.function_call)))
    return made


def _refuse_repeated_ids(calls: list[ToolCallItem], path: str) -> None:
    """Within one message only: models that number their calls from 0 each turn repeat ids over a conversation."""
    seen: set[str] = set()
    for i, call in enumerate(calls):
        if call.id in seen:
            param = f"{path}.tool_calls[{i}].id"
            raise InvalidField(f"{param} stands twice in this message.", param=param, code="duplicate_id")
        seen.add(call.id)


def _arguments(call: FunctionCall) -> str:
    if call.arguments is None or isinstance(call.arguments, str):
        return call.arguments or ""
    return json.dumps(call.arguments, ensure_ascii=False)


def _tools(items: list[ToolItem] | tuple[()]) -> Iterator[Tool]:
    names: set[str] = set()
    total_bytes = 0
    for i, item in enumerate(items):
        path = f"tools[{i}]"
        tool = _tool(item, path)
        if tool.name in names:
            param = f"{path}.function.name"
            raise InvalidField(f"{param} is the name of an earlier tool.", param=param, code="duplicate_name")
        names.add(tool.name)
        total_bytes += schema_bytes(tool.parameters, f"{path}.function.parameters")
        if total_bytes > MAX_SCHEMA_BYTES:
            raise InvalidField(f"tools must have at most {MAX_SCHEMA_BYTES} bytes of schemas.", param="tools")
        yield tool


def _tool(item: ToolItem, path: str) -> Tool:
    if item.type != "function":
        raise UnsupportedParameter(f"{path}.type must be function.", param=f"{path}.type")
    function = item.function
    if function is None:
        raise InvalidField(f"{path}.function is required.", param=f"{path}.function", code=MISSING)
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=function.parameters or {},
        strict=function.strict,
        path=f"{path}.function",
    )


def _continue_final(request: ChatRequest) -> bool:
    if not request.continue_final_message:
        return False
    if request.messages[-1].role != "assistant":
        message = "continue_final_message needs a last message of the role assistant."
        raise InvalidField(message, param="continue_final_message")
    return True

"""`tool_choice` and `parallel_tool_calls`: whether a model may, must or must not call, and what.

none | auto | required | {"type": "function", "function": {"name": NAME}}
{"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required", "tools": [{"type": "function", ...}]}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mlxd.api.errors import InvalidField
from mlxd.api.schemas import ChatRequest

_WRONG: Final = "tool_choice must be auto, none, required, or name a function of tools."


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`names` are the functions to choose among (empty: all that are offered); `single`: one call and no more."""

    offered: bool = True
    forced: bool = False
    names: frozenset[str] = frozenset()
    single: bool = False

    def shows(self, name: str) -> bool:
        """Whether the model is told of a function. Where one of some must be called it is told of all, as before."""
        return self.offered and (self.forced or not self.names or name in self.names)


def tool_choice(request: ChatRequest) -> ToolChoice:
    """Raises `InvalidField` for a choice that is none, or of a tool that is not there."""
    choice, single = request.tool_choice, request.parallel_tool_calls is False
    known = frozenset(tool.function.name for tool in request.tools or () if tool.function)
    match choice:
        case None | "auto":
            return ToolChoice(single=single)
        case "none":
            return ToolChoice(offered=False)
        case "required":
            if not known:
                raise InvalidField("tool_choice required needs tools.", param="tool_choice")
            return ToolChoice(forced=True, single=single)
        case {"type": "function"}:
            return ToolChoice(forced=True, names=frozenset({_named(choice, known)}), single=True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*tools]}}:
            names = frozenset(_named(tool, known) for tool in tools)
            if not names:
                raise InvalidField("tool_choice.allowed_tools.tools must name a function.", param="tool_choice")
            return ToolChoice(forced=mode == "required", names=names, single=single)
    raise InvalidField(_WRONG, param="tool_choice")


def _named(choice: Any, known: frozenset[str]) -> str:
    """The name in a choice of one function."""
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in known:
        raise InvalidField(_WRONG, param="tool_choice")
    return name

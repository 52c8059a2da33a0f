"""What a template cannot say is said in the next best way: nothing is lost, no role is forged, all of it is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from inference.conversation.sentinels import Text
from inference.conversation.shape import Shape, SystemPlace
from inference.conversation.turns import Call, Turn, joined
from inference.messages import Role, Tool

_TOOLS_INTRO = (
    "You can call these functions, described by JSON schemas. To call one, answer with a line "
    '<tool_call>{"name": NAME, "arguments": {…}}</tool_call>.'
)


def adapt(turns: Sequence[Turn], tools: Sequence[Tool], shape: Shape, counts: Counter[str]) -> list[Turn]:
    """Turns that a template of this shape takes. Tools it cannot list become a system text at the front."""
    adapted = list(turns)
    if tools and not shape.tools:
        counts["tools_as_text"] += 1
        adapted.insert(0, tools_as_text(tools))
    if shape.names_in_ids:
        adapted = _named_ids(adapted, counts)
    if shape.calls and not shape.parallel_calls:
        adapted = _one_call_each(adapted, counts)
    adapted = _tool_results(adapted, shape, counts)
    adapted = [piece for turn in adapted for piece in _spoken_calls(turn, shape, counts)]
    adapted = _systems(adapted, shape, counts)
    return _alternating(adapted, shape, counts) if shape.alternates else adapted


def tools_as_text(tools: Sequence[Tool]) -> Turn:
    """A system turn that lists the tools."""
    listed = [(Text(_tool_json(tool), tool.path or f"tools[{at}].function"),) for at, tool in enumerate(tools)]
    return Turn(Role.SYSTEM, joined([(Text(_TOOLS_INTRO),), *listed]))


def _tool_json(tool: Tool) -> str:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.dumps({key: value for key, value in function.items() if value}, ensure_ascii=False, default=dict)


# --- results ----------------------------------------------------------------------------------------------------


def _tool_results(turns: Sequence[Turn], shape: Shape, counts: Counter[str]) -> list[Turn]:
    """Results the template has no role for, whose call is told as text or not in the conversation, as user text."""
    open_ids: set[str] = set()
    told: set[str] = set()
    result: list[Turn] = []
    for turn in turns:
        ids = {call.id for call in turn.calls}
        open_ids |= ids
        # Some models number the calls of each turn anew, so the latest call of an id decides.
        told = told | ids if _tells_calls(turn, shape) else told - ids
        if turn.role is Role.TOOL and (not shape.tool_role or turn.call_id in told):
            turn = _result_as_text(turn, "result_as_text", counts)
        elif turn.role is Role.TOOL and not shape.orphan_results and turn.call_id not in open_ids:
            turn = _result_as_text(turn, "orphan_result", counts)
        result.append(turn)
    return result


def _result_as_text(turn: Turn, kind: str, counts: Counter[str]) -> Turn:
    counts[kind] += 1
    of = (Text(" of "), turn.name) if turn.name.text else ()
    call = (
        (Text(" ("), Text(turn.call_id, f"{turn.path}.tool_call_id", turn.message), Text(")")) if turn.call_id else ()
    )
    return turn.retold(Role.USER, Text("Result"), *of, *call, Text(":\n"), *turn.parts)


# --- calls ------------------------------------------------------------------------------------------------------


def _tells_calls(turn: Turn, shape: Shape) -> bool:
    """Whether the calls of a turn are told as text: where the template has none, and where it drops the text beside
    them and wants strict turns, so that the text cannot stand in a turn of its own."""
    stuck = turn.has_text and shape.alternates and not shape.content_with_calls
    return bool(turn.calls) and (not shape.calls or stuck)


def _spoken_calls(turn: Turn, shape: Shape, counts: Counter[str]) -> list[Turn]:
    if not turn.calls:
        return [turn]
    if _tells_calls(turn, shape):
        counts["calls_as_text"] += len(turn.calls)
        told = joined([turn.parts, *(_call_as_text(call) for call in turn.calls)])
        return [replace(turn, parts=told, calls=())]
    if turn.has_text and not shape.content_with_calls:
        counts["content_before_calls"] += 1
        # The reasoning stays with the calls: templates that forget old reasoning keep it where a call follows.
        return [replace(turn, calls=(), reasoning=()), replace(turn, parts=())]
    return [turn]


def _call_as_text(call: Call) -> tuple[Text, ...]:
    name = json.dumps(call.name, ensure_ascii=False)
    arguments = call.arguments if call.arguments.text.strip() else replace(call.arguments, text="{}")
    named = Text(name, f"{call.path}.function.name", call.arguments.message)
    return (Text('<tool_call>{"name": '), named, Text(', "arguments": '), arguments, Text("}</tool_call>"))


def _named_ids(turns: Sequence[Turn], counts: Counter[str]) -> list[Turn]:
    """Ids that say the function, numbered through the conversation; ids that already do stay."""
    number = 0
    ids: dict[str, str] = {}
    result: list[Turn] = []
    for turn in turns:
        calls = []
        for call in turn.calls:
            ids[call.id] = call.id if call.name in call.id else f"functions.{call.name}:{number}"
            counts["named_ids"] += ids[call.id] != call.id
            calls.append(replace(call, id=ids[call.id]))
            number += 1
        known = ids.get(turn.call_id, turn.call_id) if turn.role is Role.TOOL else ""
        result.append(replace(turn, calls=tuple(calls), call_id=known))
    return result


def _one_call_each(turns: Sequence[Turn], counts: Counter[str]) -> list[Turn]:
    """Several calls in one message become call, result, call, result: the order single-call templates know."""
    result: list[Turn] = []
    at = 0
    while at < len(turns):
        turn, at = turns[at], at + 1
        if len(turn.calls) < 2:
            result.append(turn)
            continue
        counts["calls_in_turn"] += 1
        end = next((end for end in range(at, len(turns)) if turns[end].role is not Role.TOOL), len(turns))
        result += _interleaved(turn, turns[at:end])
        at = end
    return result


def _interleaved(turn: Turn, answers: Sequence[Turn]) -> list[Turn]:
    """Each call with its own results behind it; what belongs to none of them comes last."""
    result: list[Turn] = []
    left = list(answers)
    alone = replace(turn, calls=())
    for call in turn.calls:
        result.append(replace(alone, calls=(call,)))
        result += [answer for answer in left if answer.call_id == call.id]
        left = [answer for answer in left if answer.call_id != call.id]
        alone = replace(alone, parts=(), reasoning=())
    return result + left


# --- system -----------------------------------------------------------------------------------------------------


def _systems(turns: Sequence[Turn], shape: Shape, counts: Counter[str]) -> list[Turn]:
    """System text where the template takes it; elsewhere it stays in its place, said by the user."""
    if shape.system is SystemPlace.ANYWHERE:
        return list(turns)
    leading = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    head = _merged(turns[:leading], "system_merged", counts)
    body = [_as_user(turn, "system_in_place", counts) for turn in turns[leading:]]
    if shape.system is SystemPlace.FIRST or not head:
        return head + body
    told = _as_user(head[0], "system_to_user", counts)
    if body and body[0].role is Role.USER:
        return [*_merged([told, body[0]], "system_prefixed", counts), *body[1:]]
    return [told, *body]


def _as_user(turn: Turn, kind: str, counts: Counter[str]) -> Turn:
    if turn.role is not Role.SYSTEM:
        return turn
    counts[kind] += 1
    return turn.retold(Role.USER, *turn.parts)


# --- taking turns -----------------------------------------------------------------------------------------------


def _merged(turns: Sequence[Turn], kind: str, counts: Counter[str]) -> list[Turn]:
    """One turn that says what all of these say, a blank line between them."""
    if len(turns) < 2:
        return list(turns)
    counts[kind] += len(turns) - 1
    parts = joined([turn.parts for turn in turns])
    reasoning = joined([turn.reasoning for turn in turns])
    calls = tuple(call for turn in turns for call in turn.calls)
    return [replace(turns[0], parts=parts, reasoning=reasoning, calls=calls)]


def _alternating(turns: Sequence[Turn], shape: Shape, counts: Counter[str]) -> list[Turn]:
    """User and assistant take turns, user first. Calls and results stand between them and are not counted.

    Neighbours of one role are merged. Where a tool exchange separates them, an empty turn of the other role stands
    in between: merging would move text across the exchange.
    """
    result: list[Turn] = []
    speaker = Role.ASSISTANT
    for turn in turns:
        if turn.role in (Role.SYSTEM, Role.TOOL) or (turn.calls and shape.tool_role):
            result.append(turn)
            continue
        if turn.role is speaker and result and result[-1].role is turn.role and not result[-1].calls:
            result[-1:] = _merged([result[-1], turn], "turns_merged", counts)
            continue
        if turn.role is speaker:
            counts["turn_inserted"] += 1
            result.append(Turn(Role.USER if speaker is Role.ASSISTANT else Role.ASSISTANT))
        result.append(turn)
        speaker = turn.role
    return result

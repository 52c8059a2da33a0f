"""One attempt to render: dress the turns for a shape, render once, put the fields back, see what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inference.conversation.adapt import adapt
from inference.conversation.dress import dress_tools, dress_turns
from inference.conversation.sentinels import Expanded, Markers, Piece, Sentinels, Text
from inference.conversation.shape import Shape, SystemPlace
from inference.conversation.turns import Turn
from inference.errors import TemplateFailed
from inference.messages import Role, Tool
from inference.ports import ChatTemplate

Scalars = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be rendered. `open_end`: the last assistant turn is continued, so its text ends the prompt."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    arguments: Scalars | None = None
    open_end: bool = False


@dataclass(frozen=True, slots=True)
class Composed:
    """A finished render. `lost` counts fields the template left out though the model must read them.

    `tail` is the text that opens the assistant's turn: the end of the last piece (empty when there is none).
    """

    pieces: tuple[Piece, ...]
    lost: int
    counts: Counter[str]
    tail: str = ""
    python_repr: bool = False


def ladder(shape: Shape) -> tuple[Shape, ...]:
    """Shapes to try in turn: as probed, then without tool roles, then only user and assistant by turns."""
    without = replace(shape, tools=False, calls=False, tool_role=False)
    plain = replace(without, system=SystemPlace.NOWHERE, alternates=True)
    return tuple(dict.fromkeys((shape, replace(shape, content_with_calls=False, parallel_calls=False), without, plain)))


def compose(template: ChatTemplate, wish: Wish, shape: Shape, markers: Markers) -> Composed:
    """The first render of the ladder that loses nothing, else the one that lost least. Raises `TemplateFailed`."""
    best: Composed | None = None
    failure: TemplateFailed | None = None
    for rung, candidate in enumerate(ladder(shape)):
        try:
            made = attempt(template, wish, candidate, markers)
        except TemplateFailed as error:
            failure = failure or error
            continue
        if rung:
            made.counts["fallback"] += 1
        if not made.lost:
            return made
        best = made if best is None or made.lost < best.lost else best
    if best is not None:
        best.counts["unrendered"] += best.lost
        return best
    raise failure or TemplateFailed("The model's chat template renders nothing.")


def attempt(template: ChatTemplate, wish: Wish, shape: Shape, markers: Markers) -> Composed:
    """One render under one shape. Raises `TemplateFailed`."""
    counts: Counter[str] = Counter()
    turns = adapt(wish.turns, wish.tools, shape, counts)
    sentinels = Sentinels(markers, counts, avoid=_literal_texts(wish))
    try:
        tools = dress_tools(wish.tools, shape, sentinels) if shape.tools else []
        messages = dress_turns(turns, shape, sentinels)
    except RecursionError as error:
        raise TemplateFailed("The tools or arguments are nested too deeply to render.") from error
    arguments = dress_arguments(wish.arguments or {}, sentinels)
    rendered = template.render(messages, tools=tools, add_generation_prompt=not wish.open_end, arguments=arguments)
    expanded = sentinels.expand(rendered)
    _refuse_cut_fields(expanded, sentinels.nonce)
    if expanded.unknown_escapes:
        counts["unknown_escape"] += expanded.unknown_escapes
    lost = len(sentinels.required - expanded.seen)
    pieces = expanded.pieces
    tail = ""
    if wish.open_end:
        pieces = cut_after(pieces, turns[-1])
    elif pieces and pieces[-1].source is None:
        tail = _generation_header(template, messages, tools, arguments, pieces[-1].text)
    return Composed(pieces, lost, counts, tail, expanded.python_repr)


def dress_arguments(arguments: Scalars, sentinels: Sentinels) -> dict[str, Any]:
    """Template arguments as they are, except text that is more than a word."""
    return {
        name: sentinels.name(Text(value, f"chat_template_kwargs.{name}")) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def cut_after(pieces: Sequence[Piece], turn: Turn) -> tuple[Piece, ...]:
    """Everything up to the last text of that turn: what follows would end the turn that is to be continued."""
    own = {text.message for text in (*turn.parts, *turn.reasoning)} - {-1}
    ends = [at for at, piece in enumerate(pieces) if piece.source is not None and piece.source.message in own]
    return tuple(pieces[: ends[-1] + 1]) if ends else tuple(pieces)


def _literal_texts(wish: Wish) -> list[str]:
    """Client texts that can reach the template without a sentinel."""
    names = [tool.name for tool in wish.tools]
    for turn in wish.turns:
        names += [turn.name.text, turn.call_id, *(part for call in turn.calls for part in (call.id, call.name))]
    return names


def _refuse_cut_fields(expanded: Expanded, nonce: str) -> None:
    if any(piece.source is None and nonce in piece.text for piece in expanded.pieces):
        raise TemplateFailed("The model's chat template cuts or rewrites the text of messages.")


def _generation_header(
    template: ChatTemplate,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    arguments: dict[str, Any],
    tail: str,
) -> str:
    """What `add_generation_prompt` adds. The last exchange alone usually tells it; where its answer does not fit,
    the whole conversation is rendered with and without the prompt."""

    def added(sample: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str | None:
        try:
            with_prompt = template.render(sample, tools=tools, add_generation_prompt=True, arguments=arguments)
            without = template.render(sample, tools=tools, add_generation_prompt=False, arguments=arguments)
        except TemplateFailed:
            return None
        header = with_prompt[len(without) :]
        return header if with_prompt.startswith(without) and tail.endswith(header) else None

    start = next((at for at in range(len(messages) - 1, 0, -1) if messages[at]["role"] != Role.TOOL), 0)
    last = messages[start:]
    if last[0]["role"] == Role.ASSISTANT:
        last = [{"role": Role.USER.value, "content": "a"}, *last]
    header = added(last, [])
    return (header if header is not None else added(messages, tools)) or ""

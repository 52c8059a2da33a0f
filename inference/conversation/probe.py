"""Asks a chat template, once per model, what it can say: small conversations are rendered and looked at.

Every question is put through the real renderer, so a yes means that nothing was lost and nothing raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from inference.conversation.compose import Composed, Scalars, Wish, attempt
from inference.conversation.control import Try, probe_control
from inference.conversation.seams import find_seams
from inference.conversation.sentinels import Markers, Piece, Text
from inference.conversation.shape import Shape, SystemPlace, ThinkingControl, Traits
from inference.conversation.template import JinjaTemplate
from inference.conversation.turns import Call, Turn
from inference.errors import TemplateFailed
from inference.messages import Role, Tool

THINK_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<reasoning>", "</reasoning>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<mm:think>", "</mm:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("<|channel>thought", "<channel|>"),
)
FINAL_CHANNEL = "<|channel|>final<|message|>"
"""Where the answer begins in models that think in channels (gpt-oss)."""


def _text(word: str, message: int) -> Text:
    return Text(word, f"messages[{message}].content", message)


def _system(word: str = "system word") -> Turn:
    return Turn(Role.SYSTEM, (_text(word, 0),), message=0)


def _user(word: str = "user word") -> Turn:
    return Turn(Role.USER, (_text(word, 1),), message=1)


def _answer(word: str = "answer word", *, reasoning: str = "") -> Turn:
    thought = (Text(reasoning, "messages[2].reasoning_content", 2),) if reasoning else ()
    return Turn(Role.ASSISTANT, (_text(word, 2),), thought, message=2)


def _calling(*ids: str, content: str = "", arguments: str = '{"place": "argument word"}', reasoning: str = "") -> Turn:
    calls = tuple(Call(one, "look", Text(arguments, "arguments", 3), "messages[3].tool_calls[0]") for one in ids)
    thought = (Text(reasoning, "messages[3].reasoning_content", 3),) if reasoning else ()
    return Turn(Role.ASSISTANT, (_text(content, 3),) if content else (), thought, calls, message=3)


def _result(id_: str) -> Turn:
    return Turn(Role.TOOL, (_text("result word", 4),), call_id=id_, name=Text("look"), path="messages[4]", message=4)


_SCHEMA = {"type": "object", "properties": {"place": {"type": "string", "description": "d"}}, "required": ["place"]}
_TOOL = Tool("look", "tool description", _SCHEMA)
_BARE_TOOL = Tool("look", "", _SCHEMA)
_ID, _SECOND = "call_first_0001", "call_second_0002"


class Probe:
    """Questions to one template, each a trial render."""

    def __init__(self, template: JinjaTemplate, markers: Markers) -> None:
        self._template = template
        self._markers = markers

    def made(
        self, turns: Sequence[Turn], shape: Shape, tools: Sequence[Tool] = (), arguments: Scalars | None = None
    ) -> Composed | None:
        """The render, or None when it raised or lost something."""
        try:
            composed = attempt(self._template, Wish(tuple(turns), tuple(tools), arguments), shape, self._markers)
        except TemplateFailed:
            return None
        return None if composed.lost else composed

    def takes(self, turns: Sequence[Turn], shape: Shape, tools: Sequence[Tool] = ()) -> bool:
        return self.made(turns, shape, tools) is not None

    def shape(self) -> Shape:
        """Asks from the plain to the involved: each answer is the ground on which the next question stands."""
        shape = Shape()
        if not self.takes([_user()], shape):
            listed = self.made([_user()], replace(shape, content_list=True))
            shape = replace(shape, content_list=listed is not None and not listed.python_repr)
        shape = replace(shape, system=self._system_place(shape))
        shape = replace(shape, alternates=self._alternates(shape))
        shape = self._tools(shape)
        shape = self._calls(shape)
        if not self._keeps_system(shape):
            shape = replace(shape, system=SystemPlace.NOWHERE)
        return self._results(shape) if shape.calls else replace(shape, tool_role=False, parallel_calls=False)

    def _system_place(self, shape: Shape) -> SystemPlace:
        if self.takes([_user(), _answer(), _system(), _user()], shape) and self.takes([_system(), _user()], shape):
            return SystemPlace.ANYWHERE
        return SystemPlace.FIRST if self.takes([_system(), _user()], shape) else SystemPlace.NOWHERE

    def _alternates(self, shape: Shape) -> bool:
        free = self.takes([_user(), _user()], shape) and self.takes([_user(), _answer(), _answer(), _user()], shape)
        return not (free and self.takes([_answer(), _user()], shape))

    def _keeps_system(self, shape: Shape) -> bool:
        """Some templates show the system text only while a user message is the last one."""
        if shape.system is SystemPlace.NOWHERE or not shape.calls:
            return True
        loop = [_user(), _calling(_ID), _result(_ID)]
        return self.takes([_system(), *loop], shape) or not self.takes(loop, shape)

    def _tools(self, shape: Shape) -> Shape:
        if not self.takes([_user()], shape, [_TOOL]):
            return replace(shape, tools=False)
        return replace(shape, needs_description=not self.takes([_user()], shape, [_BARE_TOOL]))

    def _calls(self, shape: Shape) -> Shape:
        """How arguments are given: as an object, or as the text the client sent."""
        turns = [_user(), _calling(_ID), _result(_ID)]
        for id_chars in (0, 9):
            for mapping in (True, False):
                trial = replace(shape, arguments_mapping=mapping, id_chars=id_chars)
                made = self.made(turns, trial) or self.made([_user(), _calling(_ID)], trial)
                if made and not (mapping and made.python_repr):
                    alone = self.made(turns[:2], trial) or made
                    return replace(trial, names_in_ids="look" not in "".join(piece.text for piece in alone.pieces))
        return replace(shape, calls=False)

    def _results(self, shape: Shape) -> Shape:
        call, result, end = _calling(_ID), _result(_ID), _answer()
        if not self.takes([_user(), call, result, end], shape):
            shape = replace(shape, tool_role=False)
        spoken = [_user(), _calling(_ID, content="said before", reasoning="thought before"), result, end]
        shape = replace(shape, content_with_calls=self.takes(spoken, replace(shape, content_with_calls=True)))
        both = [_user(), _calling(_ID, _SECOND), result, _result(_SECOND), end]
        shape = replace(shape, parallel_calls=self.takes(both, shape))
        junk = [_user(), _calling(_ID, arguments='{"cut'), result]
        shape = replace(shape, raw_arguments=self.takes(junk, shape))
        return replace(shape, orphan_results=shape.tool_role and self.takes([_user(), _answer(), result], shape))


def probe(template: JinjaTemplate, structural: Sequence[str], ends: Iterable[str] = ()) -> Traits:
    """The traits of a template. `structural` are the texts of the model's structural tokens, `ends` of those that end
    a turn.

    Raises `TemplateFailed` when the template cannot even be compiled.
    """
    markers = Markers.of(structural, template.literals)
    asked = Probe(template, markers)
    shape = asked.shape()
    plain = asked.made([_user()], shape)
    tags = next((tags for tags in THINK_TAGS if tags[0] in template.literals and tags[1] in template.literals), None)
    if tags and not _keeps_reasoning(asked, shape) and not _strips_thoughts(template, tags):
        tags = None  # it shows answers as they are, thoughts included: taking these apart would lose them
    return Traits(
        shape=shape,
        markers=markers,
        header=plain.tail if plain else "",
        think=tags,
        channels=FINAL_CHANNEL in template.literals,
        control=_control(asked, shape, template.literals, tags[1] if tags else ""),
        seams=find_seams(lambda turns: asked.made(turns, shape), THINK_TAGS, structural, ends),
    )


def _control(asked: Probe, shape: Shape, literals: str, closer: str) -> ThinkingControl:
    """What can be said about thinking, in three conversations that templates treat differently."""

    def ask(*turns: Turn) -> Try:
        def pieces(arguments: Scalars) -> Sequence[Piece] | None:
            made = asked.made(turns, shape, arguments=arguments)
            return made.pieces if made else None

        return pieces

    answer = _answer(reasoning="thought word")
    call = _calling(_ID, content="said before", reasoning="thought word")
    answers = (ask(_user(), answer), ask(_user(), call, _result(_ID)))
    return probe_control(ask(_user()), ask(_user(), answer, _user()), answers, literals, closer)


def _strips_thoughts(template: JinjaTemplate, tags: tuple[str, str]) -> bool:
    """Whether the template cuts a thought out of an old answer's text, which it cannot do behind a sentinel."""
    old = f"{tags[0]}thought word{tags[1]}answer word"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": old}, {"role": "user", "content": "b"}]
    try:
        return "thought word" not in template.render(talk, arguments={})
    except TemplateFailed:
        return False


def _keeps_reasoning(asked: Probe, shape: Shape) -> bool:
    """Whether reasoning is shown to the model in either place where templates show it: a tool loop, a last answer."""
    loops = (
        [_user(), _calling(_ID, reasoning="thought word"), _result(_ID)],
        [_user(), _answer(reasoning="thought word")],
    )
    for turns in loops:
        made = asked.made(turns, shape)
        if made and any(piece.source and "reasoning" in piece.source.path for piece in made.pieces):
            return True
    return False

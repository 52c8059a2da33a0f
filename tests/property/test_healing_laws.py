"""Laws of healing over whole conversations: every prompt goes on from all that its session has read and spoken, no
session ever reads what another spoke, and what is said around a turn is not touched by how it is put back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.conversation.healing import HealingStore
from inference.conversation.meaning import meaning_of
from inference.conversation.render import render, render_with_notes
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.messages import Message, TextPart, ToolCall
from inference.tokens import TokenIds
from tests.conversations import READ, assistant, result, system, talk, user
from tests.tokenizers_in_code import MARKERS, SPECIAL, text_model

WHOLE = ("chatml", "xml_arguments", "sorted_values")
"""Templates that render old turns as they rendered new ones, where these have no thoughts."""

words = st.lists(
    st.sampled_from(
        [*SPECIAL, *MARKERS, "\0spoken", "\0thought", "spoken", "thought", "Qz", "s\"'é", "\n", " ", "a é"]
    ),
    min_size=1,
    max_size=5,
).map(lambda parts: "x" + "".join(parts) + "x")
answers = st.sampled_from(["Done.", "Done. ", "ok", "the quick fox"])
steps = st.tuples(st.booleans(), answers, words, st.booleans())
sessions = st.lists(st.tuples(words, st.lists(steps, min_size=1, max_size=4)), min_size=1, max_size=3)


@dataclass(slots=True)
class Session:
    """One client. `read` is all that the model has in its KV for it; `number` makes its ids its own."""

    number: int
    messages: list[Message]
    read: TokenIds = ()
    spoken: set[int] = field(default_factory=set)


class World:
    """Sessions that share a model and a store. Every answer has one id in it that no other answer has."""

    def __init__(self, style: str) -> None:
        self.text = text_model(style)
        self.store = HealingStore()
        self.fresh = iter(range(1_000_000, 2_000_000))
        self.calls = 0

    def step(self, session: Session, called: bool, said: str, told: str, drops: bool) -> None:
        before = talk(*session.messages, tools=(READ,))
        found = self.store.recognise("m", meaning_of(before))
        made = render_with_notes(self.text, before, found.raw)
        ids = made.prompt.ids
        assert not made.adaptations.get("unspliced")
        assert ids[: len(session.read)] == session.read
        assert {one for one in ids if one >= 1_000_000} == session.spoken
        mark = next(self.fresh)
        answer = self.answer(called, said)
        spoken = (mark, *self.text.tokenizer.encode_field(said))
        self.store.remember("m", found.prefix, SpokenTurn(RawTurn.of(spoken), answer.text, "", answer.tool_calls))
        session.read, session.spoken = (*ids, *spoken), session.spoken | {mark}
        session.messages.append(echoed(answer, drops))
        session.messages.append(result(answer.tool_calls[0].id, told) if called else user(told))

    def answer(self, called: bool, said: str) -> Message:
        self.calls += 1
        arguments = '{ "path": "caf\\u00e9 \\/" , "n": 50.0 }'
        return assistant(said, *([ToolCall(f"call_{self.calls:04d}", "read_file", arguments)] if called else []))


def echoed(answer: Message, rewrites: bool) -> Message:
    """As a client sends it back."""
    if not rewrites:
        return answer
    calls = tuple(
        replace(one, id=one.id.replace("_", ""), arguments=json.dumps(json.loads(one.arguments), sort_keys=True))
        for one in answer.tool_calls
    )
    return replace(answer, parts=(TextPart(answer.text.strip()),), tool_calls=calls)


@pytest.mark.parametrize("style", WHOLE)
@given(drawn=sessions, order=st.lists(st.integers(0, 2), max_size=12))
@settings(max_examples=60)
def test_every_session_goes_on_from_its_own_ids(
    style: str, drawn: list[tuple[str, list[tuple[bool, str, str, bool]]]], order: list[int]
) -> None:
    world = World(style)
    # Equal openings are one conversation asked twice: a number keeps these apart, as a path or a date does.
    lanes = [(Session(n, [system(f"{n}"), user(opening)]), list(told)) for n, (opening, told) in enumerate(drawn)]
    for number in [*order, *(n for n in range(len(lanes)) for _ in lanes[n][1])]:
        session, left = lanes[number % len(lanes)]
        if left:
            world.step(session, *left.pop(0))


@pytest.mark.parametrize("style", ["chatml", "instruct", "channels", "id_names", "argument_text", "header_trim"])
@given(before=words, behind=words, said=words, thought=st.sampled_from(["", "I wonder.", "\n"]))
@settings(max_examples=40)
def test_around_a_turn_the_prompt_is_what_it_was(style: str, before: str, behind: str, said: str, thought: str) -> None:
    """Whoever writes what: the tokens before the turn's header and from its end marker on are those of the plain
    render, and in between stand the ids."""
    text = text_model(style)
    spoken = (1_000_001, 1_000_002)
    after = talk(system(before), user(before), assistant(said, reasoning=thought), user(behind))
    plain, made = render(text, after), render(text, after, {2: RawTurn.of(spoken)})
    at = made.ids.index(spoken[0])
    assert made.ids[at : at + 2] == spoken
    assert made.ids[:at] == plain.ids[:at]
    tail = made.ids[at + 2 :]
    assert tail == plain.ids[len(plain) - len(tail) :]
    shift = len(made) - len(plain)
    ends = [one.token for one in made.boundaries if one.message == 3]
    assert ends == [one.token + shift for one in plain.boundaries if one.message == 3]

"""What drifting requests need: the new values and nothing that stands behind them, in their own session only."""

from __future__ import annotations

import pytest

from inference.conversation.text_model import TextModel
from mlxd.probe import cuts
from mlxd.probe.agents import TOOLS
from mlxd.probe.asks import Ask, Message
from mlxd.probe.oracle import Needed, Oracle
from mlxd.probe.scenarios import SCENARIOS
from tests.tokenizers_in_code import text_model


@pytest.fixture
def text() -> TextModel:
    return text_model("chatml")


def system(day: int) -> Message:
    return {
        "role": "system",
        "content": f"{'Plant a tree. ' * 40}\nCurrent date: 2026-03-{day:02d}\n{'Be brief. ' * 30}",
    }


def user(text: str) -> Message:
    return {"role": "user", "content": text}


ANSWER: Message = {"role": "assistant", "content": "It is planted."}


def second(text: TextModel, day: int, session: str = "one", answer: Message = ANSWER) -> Needed:
    """What a second turn needs when the first was on the second of the month."""
    oracle = Oracle(text)
    first = Ask("one", (system(2), user("Plant.")))
    oracle.necessary(first)
    oracle.answered(first, ANSWER, ended=True)
    return oracle.necessary(Ask(session, (system(day), user("Plant."), answer, user("And now?"))))


def test_a_changed_date_needs_its_own_tokens(text: TextModel) -> None:
    same, other = second(text, 2), second(text, 3)
    assert not same.bound and other.bound
    assert other.tokens == same.tokens + len(text.tokenizer.encode_field("Current date: 2026-03-03"))


def test_only_an_answer_of_the_same_session_lets_a_date_stand(text: TextModel) -> None:
    """Another session, or an answer that was never given: all behind the date is read again."""
    everything = second(text, 3, session="two")
    foreign = second(text, 3, answer={"role": "assistant", "content": "It is not."})
    assert everything.total - everything.tokens == foreign.total - foreign.tokens
    assert not everything.bound and not foreign.bound and everything.tokens > 5 * second(text, 3).tokens


def test_the_template_takes_a_thought_out(text: TextModel) -> None:
    oracle = Oracle(text)
    first = Ask("one", (user("Plant a tree."),))
    thoughtful = ANSWER | {"reasoning_content": "Where? Behind the house."}
    oracle.necessary(first)
    oracle.answered(first, thoughtful, ended=True)
    needed = oracle.necessary(Ask("one", (*first.messages, thoughtful, user("And now?"))))
    assert 0 < needed.reread_thoughts < needed.tokens and not needed.reread_tools


def test_other_tools_are_said_to_be_the_reason(text: TextModel) -> None:
    oracle = Oracle(text)
    first = Ask("one", (system(2), user("Plant.")), fields={"tools": list(TOOLS[:2])})
    oracle.necessary(first)
    oracle.answered(first, ANSWER, ended=True)
    needed = oracle.necessary(Ask("one", (*first.messages, ANSWER, user("On.")), fields={"tools": list(TOOLS)}))
    assert needed.reread_tools > needed.tokens // 2 and not needed.reread_thoughts


def obedient(ask: Ask, call_id: str) -> Message:
    """The answer that is asked for."""
    assert ask.say is not None
    calls = [
        {"id": f"{call_id}{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(ask.say.calls)
    ]
    return {"role": "assistant", "content": ask.say.text} | ({"tool_calls": calls} if calls else {})


@pytest.mark.parametrize("name", ["drift", "stripped", "pi"])
def test_agents_go_on_from_what_was_read(text: TextModel, name: str) -> None:
    """Every later turn of a scenario needs less than a third: nothing in it drifts beyond what may be bound."""
    oracle, play = Oracle(text), SCENARIOS[name]()
    (ask,) = next(play)
    needed = []
    for number in range(9):
        needed.append(oracle.necessary(ask))
        answer: Message = {"role": "assistant", "content": ask.say.text if ask.say else ""}
        calls = enumerate(ask.say.calls) if ask.say else ()
        made = [
            {
                "id": f"call{number}{at}orchard0000",
                "type": "function",
                "function": {"name": one, "arguments": arguments},
            }
            for at, (one, arguments) in calls
        ]
        answer |= {"tool_calls": made} if made else {}
        oracle.answered(ask, answer, ended=True)
        (ask,) = play.send([answer]) if number < 8 else (ask,)
    assert all(3 * one.tokens < one.total for one in needed[1:])
    assert any(one.bound for one in needed) is (name == "drift")


def test_cutting_leaves_all_but_the_spans(text: TextModel) -> None:
    """Cut texts differ in nothing when the requests differ in spans alone; what is a span as a whole is gone."""
    tail = user("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nnone\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>")
    oracle = Oracle(text)
    whole = [oracle._conversation(Ask("one", (system(day), user("Plant."), tail))) for day in (2, 3)]
    cut = [cuts.cut(one, cuts.spans_of(one)).conversation for one in whole]
    assert cut[0] == cut[1] and len(cut[0].messages) == 2
    assert [value for one in whole for value in cuts.values(cuts.spans_of(one), 3).values()] == [
        "Current date: 2026-03-02",
        "Current date: 2026-03-03",
    ]


def test_a_message_that_moves_to_the_end_unchanged_may_be_left_where_it_was(text: TextModel) -> None:
    """A changed one may not, nor one that stands behind the answer alone."""

    def tail(says: str) -> Message:
        return user(f"<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\n{says}\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>")

    def needed(*new: Message) -> Needed:
        oracle = Oracle(text)
        first = Ask("one", (system(2), user("Plant."), tail("none")))
        oracle.necessary(first)
        oracle.answered(first, ANSWER, ended=True)
        return oracle.necessary(Ask("one", (*first.messages[:-1], ANSWER, *new)))

    moved, changed, gone = (needed(user("And now?"), *one) for one in ([tail("none")], [tail("make")], []))
    assert moved.floor == gone.tokens < moved.tokens
    assert changed.floor == changed.tokens > gone.tokens
    asked = needed(tail("none"))
    assert asked.floor == asked.tokens > len(text.tokenizer.encode_field(tail("none")["content"]))

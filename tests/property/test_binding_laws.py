"""Laws of late binding: nothing is lost, nobody reads another's values, and what was read before is read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from inference.conversation.binding import Bound, bind
from inference.conversation.ledger_check import content_lost
from inference.conversation.lineage_memory import LineageMemory, proven
from inference.conversation.render import render
from inference.conversation.spans import find
from inference.conversation.volatile_policy import BIND, BY_RULE, OMIT, VERBATIM, VolatilePolicy, policy_of
from inference.messages import Conversation, Message, Role
from tests.conversations import assistant, call, result, system, talk, user
from tests.drift import (
    Client,
    billing,
    channel_message,
    dated_system,
    git_system,
    instructions,
    openclaw_tail,
    qwen_date,
)
from tests.tokenizers_in_code import text_model

MODEL = text_model("channels")
MOVING = policy_of("bind" + "".join(f"+rebind:{rule}+relocate:{rule}" for rule in BY_RULE)) or BIND
OPENCLAW = openclaw_tail().text.partition("\n")[0]
slow = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

days = st.integers(1, 28).map(lambda day: f"2026-11-{day:02d}")
words = st.sampled_from(
    ["Prune the pear.", "And the plum?", "ok", "Current date: 2026-11-05", "x\r\ny", "[message_id: 9]"]
)
hours = st.integers(10, 23).map(lambda hour: f"{hour}:05")
tails = st.sampled_from(["none", "make"])
statuses = st.sampled_from(["(clean)", " M pear.py", "?? plum.py"])


def _timed(time: str) -> Message:
    return system(f"You are an agent.\nCurrent time is {time}.\nBe brief. {'Prune in winter. ' * 9}")


@st.composite
def heads(draw: st.DrawFn) -> list[Message]:
    made = [
        dated_system(draw(days)),
        git_system(draw(statuses)),
        instructions(billing(draw(st.sampled_from(["39c", "ae0"]))), "You are an agent."),
        _timed(draw(hours)),
        system("You are an agent."),
    ]
    return [draw(st.sampled_from(made))] if draw(st.booleans()) else made[: draw(st.integers(0, 5))]


@st.composite
def users(draw: st.DrawFn) -> Message:
    said = draw(words)
    return draw(
        st.sampled_from(
            [
                user(said),
                user(qwen_date("Sunday, November 22, 2026"), said),
                channel_message(f"m{draw(st.integers(0, 99))}", said),
                user(f"{said}\n[message_id: {draw(st.integers(0, 99))}]"),
                openclaw_tail(said),
                user(f"<system-reminder>\nToday's date is {draw(days)}.\n</system-reminder>", said),
            ]
        )
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    history = [*draw(heads()), draw(users())]
    for number in range(draw(st.integers(0, 3))):
        minted = f"call_orchard{number:06d}"
        history += draw(
            st.sampled_from(
                [
                    [assistant("Done, all of it."), draw(users())],
                    [assistant("", call(minted)), result(minted, draw(words))],
                ]
            )
        )
    return [*history, draw(users())] if draw(st.booleans()) else history


def holds(bound: Bound, sent: Conversation) -> None:
    """Every span has one entry, every entry is of a span, and everything is read."""
    spans = Counter((span.rule.name, span.path, span.text) for span in find(sent).spans)
    assert spans == Counter((one.rule, one.path, one.sent) for one in bound.ledger.entries if one.sent)
    prompt = render(MODEL, bound.conversation)
    assert not content_lost(MODEL.tokenizer, prompt, sent, bound.ledger)


@slow
@given(history=histories(), policy=st.sampled_from([VERBATIM, OMIT, BIND, MOVING]))
def test_every_span_of_a_first_request_is_accounted_for_and_read(
    history: list[Message], policy: VolatilePolicy
) -> None:
    sent = talk(*history)
    holds(bind(sent, policy=policy), sent)


@slow
@given(data=st.data(), policy=st.sampled_from([BIND, MOVING]))
def test_every_span_of_a_lineage_is_accounted_for_and_read(data: st.DataObject, policy: VolatilePolicy) -> None:
    client = Client(policy=policy)
    history = data.draw(histories())
    for number in range(4):
        bound = client.ask(*history)
        holds(bound, talk(*history))
        minted = f"call_of_turn_{number:06d}"
        client.answered(minted)
        exchange = [assistant("", call(minted)), result(minted, "alpha")]
        history = [
            *(_drifted(data, message) for message in history),
            *exchange,
            *data.draw(st.lists(users(), max_size=1)),
        ]


def _drifted(data: st.DataObject, message: Message) -> Message:
    """The message as its client sends it the next time."""
    text = message.text
    if message.role is Role.SYSTEM and "Current date" in text:
        return dated_system(data.draw(days))
    if message.role is Role.SYSTEM and "gitStatus" in text:
        return git_system(data.draw(statuses))
    if message.role is Role.SYSTEM and "Current time" in text:
        return _timed(data.draw(hours))
    if "Conversation info" in text:
        return channel_message(f"m{data.draw(st.integers(0, 99))}", text.rpartition("```\n\n")[2])
    return message


@slow
@given(data=st.data())
def test_what_was_read_before_is_read_again(data: st.DataObject) -> None:
    """A lineage whose dates, git status and message ids drift, whose tail comes, changes and goes: each prompt begins
    with the last one, but where the ledger says that the limit was reached; and the tail that was sent is the last
    that is read, no more than four before it."""
    client = Client()
    opening = data.draw(st.sampled_from([dated_system("2026-11-01"), git_system("(clean)")]))
    history = [opening, channel_message("m0", "Prune the pear.")]
    before: tuple[int, ...] = ()
    for number in range(6):
        tail = [openclaw_tail(data.draw(tails))] if data.draw(st.booleans()) else []
        bound = client.ask(*history, *tail)
        prompt = render(MODEL, bound.conversation)
        assert prompt.ids[: len(before)] == before or bound.ledger.limit_reached
        read = [message.text for message in bound.conversation.messages if message.text.startswith(OPENCLAW)]
        assert len(read) <= 4 + len(tail) and read[len(read) - len(tail) :] == [one.text for one in tail]
        before = prompt.ids[: prompt.header]
        minted = f"call_of_turn_{number:06d}"
        client.answered(minted)
        more = [user(data.draw(words))] if data.draw(st.booleans()) else []
        history = [_drifted(data, message) for message in history]
        history += [assistant("", call(minted)), result(minted, "alpha"), *more]


# --- sessions ---------------------------------------------------------------------------------------------------

Chooser = Callable[[Sequence[LineageMemory], Conversation, str], LineageMemory]


def any_that_fits(candidates: Sequence[LineageMemory], conversation: Conversation, session: str) -> LineageMemory:
    """The fault: equal text is taken for proof."""
    return LineageMemory(candidates[-1].read, echoed=True) if candidates else LineageMemory()


def interleaved(data: st.DataObject, choose: Chooser) -> None:
    """Sessions that say the same and are answered the same, each with values of its own; all of their records are
    offered to each of their requests."""
    number_of = data.draw(st.integers(2, 3))
    named = data.draw(st.booleans())
    calling = data.draw(st.lists(st.booleans(), min_size=number_of, max_size=number_of))
    histories = [[user("Prune the pear.")] for _ in range(number_of)]
    steps = [0] * number_of
    records: list[LineageMemory] = []
    for _ in range(data.draw(st.integers(3, 8))):
        who = data.draw(st.integers(0, number_of - 1))
        session = f"session-{who}" if named else ""
        marks = f"mark{who}"
        head = git_system(f" M {marks}_{data.draw(st.integers(0, 2))}.py")
        sent = talk(
            head,
            channel_message(f"{marks}-{data.draw(st.integers(0, 9))}", "Go."),
            *histories[who],
            openclaw_tail(marks),
        )
        bound = bind(sent, choose(data.draw(st.permutations(records)), sent, session))
        read = "".join(message.text for message in bound.conversation.messages)
        assert not any(f"mark{other}" in read for other in range(number_of) if other != who)
        steps[who] += 1
        minted = f"call_of_{who}_turn_{steps[who]:06d}" if calling[who] else "functions.a:0"
        records.append(bound.memory.answered([minted], session))
        histories[who] += (
            [assistant("", call(minted)), result(minted, "alpha")]
            if calling[who]
            else [assistant("ok"), user("Go on.")]
        )


@slow
@given(data=st.data())
def test_no_session_reads_the_values_of_another(data: st.DataObject) -> None:
    interleaved(data, proven)


def test_the_law_of_sessions_finds_a_server_that_trusts_equal_text() -> None:
    with pytest.raises(AssertionError):
        unshrunk = settings(slow, database=None, phases=(Phase.generate,))
        unshrunk(given(data=st.data())(lambda data: interleaved(data, any_that_fits)))()

"""The checker reads the prompt alone: what is missing is found, and what is only said to be accounted for too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.conversation.binding import bind
from inference.conversation.ledger_check import content_lost, lost_from
from inference.conversation.render import render
from inference.conversation.span_ledger import Entry, Fate, SpanLedger
from inference.conversation.volatile_policy import OMIT
from inference.messages import Conversation, TextPart
from tests.conversations import AGENT_LOOP, READ, assistant, call, result, system, talk, user
from tests.drift import Client, billing, dated_system, instructions, openclaw_tail, step
from tests.tokenizers_in_code import STYLES, text_model

MODEL = text_model("chatml")


def lost(sent: Conversation, read: Conversation, ledger: SpanLedger | None = None) -> list[str]:
    found = content_lost(MODEL.tokenizer, render(MODEL, read), sent, ledger)
    return [one.text for one in found]


def dropped(conversation: Conversation, number: int) -> Conversation:
    messages = conversation.messages
    return replace(conversation, messages=messages[:number] + messages[number + 1 :])


@pytest.mark.parametrize("style", STYLES)
def test_nothing_is_missing_from_a_whole_prompt(style: str) -> None:
    model = text_model(style)
    assert not content_lost(model.tokenizer, render(model, AGENT_LOOP), AGENT_LOOP)


@pytest.mark.parametrize("number", [0, 1, 3, 5, 6, 8])
def test_a_dropped_message_is_found(number: int) -> None:
    assert lost(AGENT_LOOP, dropped(AGENT_LOOP, number)) == [part.text for part in AGENT_LOOP.messages[number].parts]


def test_a_dropped_tool_and_a_dropped_call_are_found() -> None:
    assert lost(AGENT_LOOP, replace(AGENT_LOOP, tools=AGENT_LOOP.tools[1:])) == [READ.description]
    messages = list(AGENT_LOOP.messages)
    messages[4] = replace(messages[4], tool_calls=messages[4].tool_calls[:1])
    assert lost(AGENT_LOOP, replace(AGENT_LOOP, messages=tuple(messages))) == ["1"], "the rest stands elsewhere too"


def test_a_short_text_that_stands_elsewhere_too_is_missed_in_its_place() -> None:
    long = "The first pear tree stands behind the house, near the well."
    sent = talk(
        user("ok"), assistant(long), user("ok"), assistant("The second one died last winter, in the long frost.")
    )
    assert not lost(sent, sent)
    assert lost(sent, dropped(sent, 2)) == ["ok"]
    assert lost(sent, dropped(sent, 0)) == ["ok"]


def test_a_repeated_instruction_must_stand_there_as_often() -> None:
    sent = talk(system("Be brief."), user("Hi"), system("Be brief."), assistant("Hello."), user("Go"))
    assert not lost(sent, sent)
    assert lost(sent, dropped(sent, 2)) == ["Be brief.", "Be brief."]


def test_omitted_telemetry_is_excused_only_by_the_ledger() -> None:
    sent = talk(instructions(billing("39c"), "You are."), user("Hi"))
    bound = bind(sent, policy=OMIT)
    assert not lost(sent, bound.conversation, bound.ledger)
    assert lost(sent, bound.conversation) == [billing("39c")]


def test_a_line_that_is_no_telemetry_cannot_be_claimed_to_be() -> None:
    rule = "Never touch the plum."
    sent = talk(instructions(rule, "You are."), user("Hi"))
    claimed = SpanLedger(
        "omit", (Entry("claude_billing_header", "messages[0].content[0].text", Fate.OMITTED, rule, ""),)
    )
    assert lost(sent, talk(instructions("You are."), user("Hi")), claimed) == [rule]


def test_a_clock_cannot_be_omitted() -> None:
    sent = talk(dated_system("2026-11-21"), user("Hi"))
    line = "Current date: 2026-11-21\n"
    claimed = SpanLedger("omit", (Entry("current_date", "messages[0].content[0].text", Fate.OMITTED, line, ""),))
    read = talk(system(sent.messages[0].text.replace(line, "")), user("Hi"))
    assert lost(sent, read, claimed) == [sent.messages[0].text]


def test_what_is_said_to_be_restated_must_be_there() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(dated_system("2026-11-21"), user("Prune the pear."))
    client.answered(minted)
    sent = talk(dated_system("2026-11-22"), user("Prune the pear."), *exchange)
    bound = client.ask(*sent.messages)
    assert not lost(sent, bound.conversation, bound.ledger)
    unsaid = dropped(bound.conversation, len(bound.conversation.messages) - 1)
    assert lost(sent, unsaid, bound.ledger) == ["Current date: 2026-11-22\n"]


def test_a_retained_message_must_be_there() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(user("Prune the pear."), openclaw_tail("one: make"))
    client.answered(minted)
    sent = talk(user("Prune the pear."), *exchange, openclaw_tail())
    bound = client.ask(*sent.messages)
    assert not lost(sent, bound.conversation, bound.ledger)
    assert lost(sent, dropped(bound.conversation, 1), bound.ledger) == [openclaw_tail("one: make").text]


def test_a_tail_that_is_read_where_it_stood_must_be_there_and_say_the_same() -> None:
    minted, *exchange = step()
    client = Client()
    client.ask(user("Prune the pear."), openclaw_tail())
    client.answered(minted)
    sent = talk(user("Prune the pear."), *exchange, openclaw_tail())
    bound = client.ask(*sent.messages)
    assert not lost(sent, bound.conversation, bound.ledger)
    assert lost(sent, dropped(bound.conversation, 1), bound.ledger) == [openclaw_tail().text]
    (entry,) = bound.ledger.entries
    other = openclaw_tail("one: make")
    swapped = talk(user("Prune the pear."), other, *exchange)
    claimed = replace(bound.ledger, entries=(replace(entry, read=other.text),))
    assert lost(sent, swapped, claimed) == [openclaw_tail().text]


def test_calls_read_as_the_model_spoke_them_may_be_spelled_in_another_way() -> None:
    sent = talk(
        user("Hi"), assistant("", call("call_one", '{"path": "a", "replace_all": false}')), result("call_one", "x")
    )
    text = '{"path": "a"}\nread_file Hi x'.replace("Hi x", "") + "Hi read_file x"
    assert [one.text for one in lost_from(text, sent)] == ["replace_all"]
    assert not lost_from("Hi x", sent, spoken={1})


def test_a_text_may_stand_there_as_json_before_it_stands_there_as_it_is() -> None:
    model = text_model("channels")
    sent = talk(user("Hi"), assistant("", call("call_one")), result("call_one", "x\ny"), user("x\ny"))
    assert not content_lost(model.tokenizer, render(model, sent), sent)
    assert len(content_lost(model.tokenizer, render(model, dropped(sent, 2)), sent)) == 1


def test_windows_line_feeds_are_no_loss() -> None:
    sent = Conversation((replace(user("one\r\ntwo"), parts=(TextPart("one\r\ntwo"),)),))
    assert not lost(sent, sent)

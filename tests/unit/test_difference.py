"""The words of a verdict, from real templates: each kind of difference is named, and nothing of a client is in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation.binding import bind
from inference.conversation.difference import Difference, Reading, Why, difference, public_path
from inference.conversation.render import render
from inference.conversation.span_ledger import SpanLedger
from inference.conversation.volatile_policy import VERBATIM
from inference.events import Parting
from inference.messages import Conversation, ToolCall
from inference.tokens import Prompt
from tests.talks import LONG, message, talk, tool
from tests.tokenizers_in_code import text_model

THINK = ("<think>", "</think>")


def told(now: Conversation, before: Conversation, style: str = "chatml", **reading: object) -> Difference:
    text = text_model(style)
    return compared(render(text, now), render(text, before).ids, now, style, **reading)


def compared(prompt: Prompt, stored: tuple[int, ...], now: Conversation, style: str, **reading: object) -> Difference:
    at = next(at for at, pair in enumerate(zip(prompt.ids, stored, strict=False)) if pair[0] != pair[1])
    made = replace(Reading(text_model(style).tokenizer, prompt, now, think=THINK), **reading)  # type: ignore[arg-type]
    return difference(made, Parting(at, stored[at : at + 16]))


def test_the_message_the_field_and_both_texts() -> None:
    found = told(talk(LONG, f"{LONG} line 17 of it", "It is."), talk(LONG, f"{LONG} line 12 of it", "It is."))
    assert str(found) == f"diverged(messages[1].content, token {found.token})"
    assert (found.message, found.path, found.rule) == (1, "messages[1].content", "")
    assert found.before.endswith("line 1") and found.sent.startswith("7 of") and found.stored.startswith("2 of")


def test_template_text_counts_to_the_message_it_leads_to() -> None:
    before = talk(LONG, "one", "two", "three")
    gone = Conversation((*before.messages[:3], message(3, "system", "three")))
    found = told(gone, before)
    assert (found.why, found.message, found.path) == (Why.DIVERGED, 3, "")
    assert str(found) == f"diverged(messages[3], token {found.token})"


def test_a_message_cut_short_is_the_one_that_differs() -> None:
    found = told(talk(LONG, "one", "two", "three"), talk(LONG, "one", "two more", "three"))
    assert found.message == 2 and found.stored.startswith(" more")


@pytest.mark.parametrize("style", ["chatml", "xml_arguments"])
@pytest.mark.parametrize(
    ("before", "now", "name"),
    [
        (("read", "write"), ("read", "find", "write"), "find"),
        (("read", "find", "write"), ("read", "write"), "find"),
        (("read", "write"), ("read", "write", "find"), "find"),
        (("read",), (), "read"),
        ((), ("read",), "read"),
    ],
)
def test_a_tool_is_named(style: str, before: tuple[str, ...], now: tuple[str, ...], name: str) -> None:
    old, new = (tuple(tool(at, one) for at, one in enumerate(names)) for names in (before, now))
    found = told(talk(LONG, "go", tools=new), talk(LONG, "go", tools=old), style, tools_before=old)
    assert str(found) == f"tools_changed({name})"


def test_a_tool_is_named_by_its_place_where_the_last_request_is_forgotten() -> None:
    new, old = (tool(0, "read"), tool(1, "write", "Puts it there")), (tool(0, "read"), tool(1, "write"))
    found = told(talk(LONG, tools=new), talk(LONG, tools=old), "chatml")
    assert (str(found), found.path) == ("tools_changed(write)", "tools[1].function.description")
    odd = (tool(0, "read"), tool(1, "né\n", "Puts it there"))
    assert str(told(talk(LONG, tools=odd), talk(LONG, tools=old), "chatml")) == "tools_changed"


def test_tools_of_another_request_are_no_reason_for_a_changed_message() -> None:
    now = talk(LONG, "line 17", tools=(tool(0, "read"),))
    found = told(now, talk(LONG, "line 12", tools=now.tools), "chatml", tools_before=(tool(0, "find"),))
    assert found.why is Why.DIVERGED


def answered(reasoning: str) -> Conversation:
    asked = talk(LONG, "one", "two", "three").messages
    return Conversation((*asked[:2], message(2, "assistant", "two", reasoning=reasoning), asked[3]))


def stored_thought(now: Conversation, opener: str) -> tuple[int, ...]:
    """What the model read and wrote: the prompt of the first question, a thought and an answer."""
    text = text_model("chatml")
    first = render(text, Conversation(now.messages[:2]))
    return (
        first.ids + text.tokenizer.encode_template(f"{opener}\nhm\n</think>\n\n") + text.tokenizer.encode_field("two")
    )


@pytest.mark.parametrize(("reasoning", "spoken", "who"), [
    ("hm", frozenset[int](), "template"), ("", frozenset({2}), "template"), ("", frozenset[int](), "client"),
])  # fmt: skip
def test_who_left_a_thought_out(reasoning: str, spoken: frozenset[int], who: str) -> None:
    now = answered(reasoning)
    prompt = render(text_model("chatml"), now)
    found = compared(prompt, stored_thought(now, "<think>"), now, "chatml", spoken=spoken)
    assert str(found) == f"reasoning_stripped({who})" and found.message == 2


def test_a_thought_is_missed_in_an_answer_that_says_nothing() -> None:
    now = Conversation((*talk(LONG, "one").messages, message(2, "assistant"), message(3, "user", "three")))
    prompt = render(text_model("chatml"), now)
    found = compared(prompt, stored_thought(now, "<think>"), now, "chatml")
    assert (str(found), found.message) == ("reasoning_stripped(client)", 2)


def test_a_client_is_not_blamed_for_a_thought_that_the_template_would_have_left_out() -> None:
    now = answered("")
    prompt, stored = render(text_model("chatml"), now), stored_thought(now, "<think>")
    blamed = [compared(prompt, stored, now, "chatml", keeps=keeps).what for keeps in (True, False)]
    assert blamed == ["client", "template"]
    calling = Conversation((*now.messages[:3], message(3, "assistant", "done")))
    found = compared(render(text_model("chatml"), calling), stored, calling, "chatml", keeps=False)
    assert found.what == "client", "nobody has asked since: there it would be shown"


def test_an_edited_answer_is_no_stripped_thought() -> None:
    found = told(talk(LONG, "one", "two", "three"), talk(LONG, "one", "twelve", "three"), "chatml")
    assert found.why is Why.DIVERGED and found.message == 2


def test_the_rule_of_a_drifting_text() -> None:
    now, before = (talk(f"{LONG}\nToday's date is 2026-11-{day}.\n{LONG}", "go") for day in (21, 22))
    spans = bind(now, policy=VERBATIM).ledger
    assert spans.entries
    found = told(now, before, spans=spans)
    assert found.rule == spans.entries[0].rule
    assert str(found) == f"diverged(messages[0].content, rule {found.rule}, token {found.token})"
    elsewhere = talk(now.messages[0].text.replace("The model", "A model", 1), "go")
    assert told(now, elsewhere, spans=spans).rule == ""


def test_a_limit_of_what_is_retained_is_named() -> None:
    found = told(talk(LONG, "one"), talk(LONG, "two"), spans=SpanLedger("bind", limit_reached=True))
    assert str(found) == f"retained_limit(token {found.token})"


def test_keys_of_arguments_and_schemas_are_in_no_verdict() -> None:
    old = talk(LONG, "go")
    calls = [
        ToolCall(
            "call_1",
            "read",
            f'{{"secret_key": "{value}"}}',
        )
        for value in ("abc", "xyz")
    ]
    one, other = (
        Conversation((*old.messages, message(2, "assistant", "", call), message(3, "user", "on"))) for call in calls
    )
    found = told(one, other, "chatml")
    assert found.path == "messages[2].tool_calls[0].function.arguments" and "secret" not in str(found)


@given(st.text(alphabet="abc.[]0é\n", max_size=30))
def test_a_public_path_ends_where_own_keys_begin(keys: str) -> None:
    for place in ("messages[1].tool_calls[0].function.arguments", "tools[3].function.parameters"):
        assert public_path(f"{place}.{keys}") == place

"""Conversations that drift, through a whole runtime: what is looked at is what is asked, and the clock stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inference.conversation.preparer import LARGE_BODY_BYTES
from inference.conversation.template import JinjaTemplate
from inference.conversation.volatile_policy import BIND, VERBATIM, VolatilePolicy
from inference.messages import Message
from mlxd.conversing import Asking
from mlxd.runtime import Runtime
from tests.conversations import READ, result, talk, user
from tests.drift import channel_message, dated_system, openclaw_tail
from tests.integration.spoken_runtime import CALL, LONG, Model, answer, served
from tests.tokenizers_in_code import template_source, text_model

DAY_S = 86_400.0
sizes = pytest.mark.parametrize("body_bytes", [0, LARGE_BODY_BYTES + 1], ids=["thread", "process"])


@pytest.fixture
def dated() -> Iterator[tuple[Model, Runtime]]:
    """A model whose template begins with the date."""
    text = text_model("chatml")
    source = "<|im_start|>system\nIt is {{ strftime_now('%Y-%m-%d') }}.<|im_end|>\n" + template_source("chatml")
    model = Model(replace(text, template=JinjaTemplate(source)))
    with served(model.scheduler, model.text, Path("tiny")) as runtime:
        yield model, runtime


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> str:
    """Lets the ledger see another time; the date of it."""
    at_s = time.mktime((2026, 11, 20, 12, 0, 0, 0, 0, -1)) + days * DAY_S
    monkeypatch.setattr("mlxd.ledger.ledger.time.time", lambda: at_s)
    return time.strftime("%Y-%m-%d", time.localtime(at_s))


def shown(model: Model) -> str:
    return model.text.tokenizer.decode(model.read).partition("It is ")[2][:10]


@sizes
async def test_a_templates_clock_shows_when_its_lineage_began(
    dated: tuple[Model, Runtime], monkeypatch: pytest.MonkeyPatch, body_bytes: int
) -> None:
    model, runtime = dated
    model.says = CALL
    messages = [user("What is in a?")]
    began = later(monkeypatch, 0)
    for day in range(3):
        now = later(monkeypatch, day)
        said, _ = await answer(runtime, talk(*messages, tools=(READ,)), LONG, body_bytes=body_bytes)
        assert shown(model) == began
        messages += [said, result(said.tool_calls[0].id, "alpha")]
    for policy, expected in ((VERBATIM, now), (BIND, began)):
        await answer(runtime, talk(*messages, tools=(READ,)), LONG, body_bytes=body_bytes, volatile=policy)
        assert shown(model) == expected
    await answer(runtime, talk(user("And you?")), LONG, body_bytes=body_bytes)
    assert shown(model) == now, "a conversation that begins is told the present"


@sizes
async def test_a_question_about_a_request_is_understood_as_the_request_is(
    dated: tuple[Model, Runtime], body_bytes: int
) -> None:
    """And leaves no trace: asked twice, it is understood the same."""
    model, runtime = dated
    model.says = CALL

    def sent(day: str, message_id: str, *more: Message) -> Asking:
        messages = (dated_system(day), channel_message(message_id, "What is in a?"), *more)
        return Asking(params=LONG, conversation=talk(*messages, tools=(READ,)), body_bytes=body_bytes, counted=False)

    asking = sent("2026-11-21", "m1")
    assert asking.conversation is not None
    said, _ = await answer(runtime, asking.conversation, LONG, body_bytes=body_bytes)
    again = sent("2026-11-22", "m2", said, result(said.tool_calls[0].id, "alpha"))
    assert again.conversation is not None
    text, ref = model.text, runtime.default().ref
    asked = [await runtime.conversing.understand(ref, text, again) for _ in range(2)]
    assert (runtime.ledger.view().turns, runtime.echoes.store.counts) == (1, {})
    await answer(runtime, again.conversation, LONG, body_bytes=body_bytes)
    assert asked[0].prompt == asked[1].prompt == model.jobs[-1].prompt
    spans = asked[0].known.spans
    assert spans is not None and spans.counts == {"restated": 1, "pinned": 1}


@pytest.mark.parametrize(("policy", "shared"), [(BIND, True), (VERBATIM, False)], ids=["bind", "verbatim"])
async def test_sessions_that_say_the_same_are_bound_by_their_names(
    dated: tuple[Model, Runtime], policy: VolatilePolicy, shared: bool
) -> None:
    model, runtime = dated
    histories = {name: [user("What is in a?")] for name in ("ada", "bob")}
    read: dict[str, tuple[int, ...]] = {}
    for turn in range(3):
        for name, history in histories.items():
            sent = talk(dated_system(f"2026-11-{turn + 1:02d}"), *history)
            said, _ = await answer(runtime, sent, LONG, session=name, volatile=policy)
            if turn:
                assert (model.read[: len(read[name])] == read[name]) == shared
            read[name] = model.read[: model.jobs[-1].prompt.header]
            history += [said, user(f"And in {turn}?")]


@pytest.mark.parametrize(
    ("says", "times"), [(CALL.partition("</think>\n\n")[2], 1), (CALL, 2)], ids=["plain", "thinks"]
)
async def test_a_tail_that_comes_again_is_read_once_unless_thoughts_move_with_it(
    dated: tuple[Model, Runtime], says: str, times: int
) -> None:
    model, runtime = dated
    model.says = says
    messages = [user("What is in a?")]
    for turn in range(3):
        said, _ = await answer(runtime, talk(*messages, openclaw_tail(), tools=(READ,)), LONG)
        read = model.text.tokenizer.decode(model.read)
        assert read.count("BEGIN_OPENCLAW_INTERNAL_CONTEXT") == 1 + turn * (times - 1)
        messages += [said, result(said.tool_calls[0].id, "alpha")]

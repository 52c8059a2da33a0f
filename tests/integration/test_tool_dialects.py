"""A model's own dialect from its template to the events of an answer, and what becomes of calls that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from inference.conversation.preparer import Preparer
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.engine.scripted import Script, ScriptedLoader
from inference.events import Channel, Delta, Event, Finished, FinishReason, ToolCallDelta
from inference.messages import Conversation, Message, Role, TextPart, Tool
from inference.params import GenerationParams
from inference.ports import Job, ModelLimits
from inference.scheduler import Scheduler
from inference.streaming.dialects.choice import detect
from inference.streaming.pieces import BrokenCall
from mlxd import runtime as current
from mlxd.api import policy, small_model
from mlxd.config import Config
from mlxd.malformed import MAX_RECORDS, MalformedCalls
from mlxd.runtime import Runtime, ServedModel
from mlxd.start_errors import InvalidSetting
from mlxd.wiring import tool_call_format
from tests.integration.api_scripted import StandIn, chat, get, post
from tests.tokenizers_in_code import text_model

MODEL = ServedModel("m", Path("m"), 1)
LOOK = Tool("look", "looks", {"type": "object", "properties": {"text": {"type": "string"}}})
TOKEN = "mlxd_admin_" + "t" * 43


def speaking(style: str) -> TextModel:
    """A text model with the dialects that its template shows."""
    text = text_model(style)
    assert isinstance(text.template, JinjaTemplate)
    return replace(text, dialects=detect(text.template.literals))


async def answered(text: TextModel, reply: str, *, named: str = "auto") -> tuple[list[Event], Runtime]:
    """What a request with a tool is told when the model says this."""
    ids = (*text.tokenizer.encode_template(reply), *text.tokenizer.eos_ids)

    def draw(_job: Job, position: int) -> int:
        return ids[min(position, len(ids) - 1)]

    limits = ModelLimits(65_536, text.tokenizer.vocab_size, 1_000_000, 1_000)
    scheduler = Scheduler(lambda: ScriptedLoader(Script(reply=draw, limits=limits)))
    scheduler.start()
    running = Runtime((MODEL,), scheduler, Preparer(), lambda _path: text, tool_call_format=named)
    asked = Conversation((Message(Role.USER, (TextPart("hi", "messages[0].content"),), path="messages[0]"),), (LOOK,))
    try:
        generation = await running.open(
            model=None, conversation=asked, params=GenerationParams(max_tokens=400), client="", request_id="r1"
        )
        return [event async for batch in generation for event in batch], running
    finally:
        running.close()


def told(events: list[Event]) -> tuple[str, str, str]:
    """Thoughts, content, and calls as text."""
    said = [event for event in events if isinstance(event, Delta)]
    channels = ("".join(one.text for one in said if one.channel is channel) for channel in Channel)
    calls = (f"{one.name}{one.arguments}" for one in events if isinstance(one, ToolCallDelta))
    reasoning, content, _ = channels
    return reasoning, content, "".join(calls)


CALL = '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"text":"a"}'


async def test_messages_of_harmony_through_special_tokens() -> None:
    text = speaking("channels")
    assert text.dialects == ("harmony",)
    events, _ = await answered(text, f"<|channel|>analysis<|message|>Look it up.<|end|>{CALL}")
    assert told(events) == ("Look it up.", "", 'look{"text":"a"}')
    final = events[-1]
    assert isinstance(final, Finished) and final.reason is FinishReason.TOOL_CALLS
    assert 0 < final.usage.reasoning_tokens < final.usage.completion_tokens
    spoken = sum(event.token_count for event in events if isinstance(event, Delta | ToolCallDelta))
    assert spoken <= final.usage.completion_tokens


async def test_without_the_dialect_markers_are_silent_and_a_name_brings_it_back() -> None:
    text = replace(speaking("channels"), dialects=())
    events, _ = await answered(text, f"<|channel|>final<|message|>a{CALL}")
    assert told(events)[2] == "" and "<|message|>" not in told(events)[1]
    events, _ = await answered(text, f"<|channel|>final<|message|>a<|end|>{CALL}", named="gpt_oss")
    assert told(events) == ("", "a", 'look{"text":"a"}')


async def test_a_dialect_that_is_named_is_read() -> None:
    reply = "<|tool_call_start|>[look(text='a')]<|tool_call_end|>"
    events, _ = await answered(speaking("chatml"), reply)
    assert told(events) == ("", reply, "")
    events, _ = await answered(speaking("chatml"), reply, named="lfm2")
    assert told(events) == ("", "", 'look{"text": "a"}')


async def test_a_malformed_call_is_kept_for_the_admin_and_its_text_nowhere_else() -> None:
    with capture_logs() as lines:
        events, running = await answered(speaking("chatml"), '<tool_call>{"name": "look", "secret')
    assert told(events)[1] == '<tool_call>{"name": "look", "secret'
    (kept,) = running.malformed.newest_first()
    assert (kept.request_id, kept.model, kept.dialect, kept.result) == ("r1", "m", "json", "content")
    assert kept.raw == '<tool_call>{"name": "look", "secret' and kept.chars == len(kept.raw)
    (line,) = [line for line in lines if line["event"] == "malformed tool call"]
    assert line["dialect"] == "json" and line["chars"] == kept.chars and "secret" not in str(line)
    assert running.snapshot().scheduler.counters.malformed_tool_calls == 1


def test_only_the_last_are_kept() -> None:
    calls = MalformedCalls()
    for number in range(MAX_RECORDS + 5):
        calls.note(f"r{number}", "m", BrokenCall("xml", "cut off", "raw", 3, shown=number % 2 == 0))
    kept = calls.newest_first()
    assert len(kept) == MAX_RECORDS and kept[0].request_id == f"r{MAX_RECORDS + 4}"
    assert [call.result for call in kept[:2]] == ["unfinished", "content"]


# --- at the doors ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    current.install(made)  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    yield made
    current.install(None)
    policy.install(policy.Policy())


async def test_malformed_calls_are_shown_to_the_admin_only(stand_in: StandIn) -> None:
    stand_in.malformed.note("r", "m", BrokenCall("xml", "cut off", "raw text", 8))
    assert (await get("/api/tools/malformed")).status == 401
    answer = await get("/api/tools/malformed", headers={"authorization": f"Bearer {TOKEN}"})
    (call,) = answer.json()["calls"]
    assert call.pop("at_s") > 1_700_000_000
    assert call == {
        "request_id": "r", "model": "m", "dialect": "xml", "reason": "cut off", "result": "content", "chars": 8,
        "raw": "raw text",
    }  # fmt: skip


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize(("parameters", "warned"), [(0, False), (7_600_000_000, True), (8_000_000_000, False)])
async def test_tools_for_a_small_model_bring_a_warning(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, parameters: int, warned: bool
) -> None:
    monkeypatch.setattr(small_model, "_told", set())
    stand_in.parameter_count = parameters
    with capture_logs() as lines:
        headers = [(await post("/v1/chat/completions", chat(**more))).headers for more in ({"tools": TOOLS},) * 2]
    assert [small_model.HEADER.lower() in one for one in headers] == [warned] * 2
    assert len([line for line in lines if line["event"] == "tools for a small model"]) == warned
    assert small_model.HEADER.lower() not in (await post("/v1/chat/completions", chat())).headers


def test_the_demo_model_is_what_it_is(stand_in: StandIn) -> None:
    stand_in.parameter_count = 1_000_000
    assert small_model.warning(stand_in, small_model.DEMO_MODEL_ID) is None  # type: ignore[arg-type]
    assert small_model.warning(stand_in, "m") == small_model.WARNING  # type: ignore[arg-type]


def test_an_unknown_format_ends_the_start_with_the_list(tmp_path: Path) -> None:
    assert tool_call_format(Config(state_dir=tmp_path, tool_call_format="xml_function")) == "xml_function"
    with pytest.raises(InvalidSetting, match=r"auto.*deepseek.*pythonic"):
        tool_call_format(Config(state_dir=tmp_path, tool_call_format="klingon"))

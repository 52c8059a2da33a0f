"""What a request says about thinking, followed to the prompt a model reads, the job the engine gets and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import Script, ScriptedLoader
from inference.ports import Job, ModelLimits, ThoughtSpan
from inference.scheduler import Scheduler
from inference.streaming.splitter import ReasoningMode
from mlxd import runtime
from mlxd.api import policy
from mlxd.runtime import Runtime, ServedModel
from tests.conversations import full_text
from tests.integration.api_scripted import chat, post
from tests.tokenizers_in_code import text_model, tokenizer

CHAT = "/v1/chat/completions"
HEADER = "<|im_start|>assistant\n"
OFF_HEADER = HEADER + "<think>\n\n</think>\n\n"
SAID = "<think>\nbecause\n</think>\n\nyes"


class Model:
    """One served model: a real text side, and a scripted one that answers `SAID` as the prompt lets it."""

    def __init__(self, text: TextModel, mode: ReasoningMode = ReasoningMode.AUTO) -> None:
        self.text = text
        self.jobs: list[Job] = []
        limits = ModelLimits(65_536, text.tokenizer.vocab_size, 1_000_000, 1_000)
        self.scheduler = Scheduler(lambda: ScriptedLoader(Script(reply=self.reply, limits=limits)))
        served = ServedModel("tiny", Path("tiny"), 1)
        self.runtime = Runtime((served,), self.scheduler, Preparer(), lambda path: text, reasoning=mode)

    def reply(self, job: Job, position: int) -> int:
        if position == 0:
            self.jobs.append(job)
        header = full_text(self.text, job.prompt.ids[job.prompt.header :])
        said = "yes" if "</think>" in header else SAID.removeprefix("<think>\n" if "<think>" in header else "")
        ids = (*self.text.tokenizer.encode_template(said), *self.text.tokenizer.eos_ids)
        return ids[min(position, len(ids) - 1)]

    @property
    def prompt(self) -> str:
        return full_text(self.text, self.jobs[-1].prompt.ids)

    @property
    def thought(self) -> ThoughtSpan | None:
        guide = self.jobs[-1].guide
        return guide.thought if guide else None


@pytest.fixture
def serve() -> Iterator[Callable[..., Model]]:
    served: list[Model] = []

    def start(text: TextModel | str, **rest: Any) -> Model:
        model = Model(text_model(text) if isinstance(text, str) else text, **rest)
        model.scheduler.start()
        runtime.install(model.runtime)
        served.append(model)
        return model

    yield start
    runtime.install(None)
    policy.install(policy.Policy())
    for model in served:
        model.runtime.close()


async def said(**fields: Any) -> dict[str, Any]:
    answer = await post(CHAT, chat(**fields))
    assert answer.status == 200, answer.body[:300]
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    return {name: message[name] for name in ("reasoning_content", "content") if name in message}


BOTH = {"reasoning_content": "because", "content": "yes"}
OFF: tuple[dict[str, Any], ...] = (
    {"enable_thinking": False},
    {"thinking": {"type": "disabled"}},
    {"reasoning_effort": "none"},
    {"metadata": {"enable_thinking": "false"}},
    {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
)


@pytest.mark.parametrize(("style", "header"), [("chatml", HEADER), ("strict_system", HEADER + "<think>\n")])
async def test_thinking_is_on_unless_somebody_says_otherwise(
    serve: Callable[..., Model], style: str, header: str
) -> None:
    model = serve(style)
    assert await said() == BOTH
    assert model.prompt.endswith(header) and model.thought is None
    policy.install(policy.Policy(default_thinking=False))
    assert await said() == {"content": "yes"}
    assert model.prompt.endswith(OFF_HEADER)
    assert await said(reasoning_effort="low") == BOTH
    assert model.prompt.endswith(header)


@pytest.mark.parametrize("fields", OFF, ids=str)
@pytest.mark.parametrize("style", ["chatml", "strict_system"])
async def test_the_templates_own_switch_is_used(
    serve: Callable[..., Model], style: str, fields: dict[str, Any]
) -> None:
    model = serve(style)
    assert await said(**fields) == {"content": "yes"}
    assert model.prompt.endswith(OFF_HEADER)
    assert model.thought is None, "the prompt has closed the thought: there is nothing left to limit"


async def test_an_open_thought_without_a_switch_is_closed_in_the_prompt(serve: Callable[..., Model]) -> None:
    model = serve("argument_text")
    assert await said() == BOTH
    assert model.prompt.endswith("<|Assistant|><think>\n")
    assert await said(enable_thinking=False) == {"content": "yes"}
    assert model.prompt.endswith("<|Assistant|><think>\n\n</think>\n\n")
    assert model.thought is None


async def test_where_the_model_opens_its_thoughts_the_engine_ends_them(serve: Callable[..., Model]) -> None:
    model = serve("id_names")
    await said(enable_thinking=False)
    opener, closer = map(tokenizer().encode_template, ("<think>", "</think>"))
    assert model.thought == ThoughtSpan(opener, closer, False, 0, closer)


async def test_a_budget_goes_to_the_engine(serve: Callable[..., Model]) -> None:
    model = serve("strict_system")
    for fields in ({"thinking": {"type": "enabled", "budget_tokens": 7}}, {"reasoning": {"max_tokens": 7}}):
        await said(**fields)
        assert model.thought and (model.thought.open, model.thought.budget_tokens) == (True, 7)


async def test_a_server_told_that_answers_begin_mid_thought(serve: Callable[..., Model]) -> None:
    model = serve("instruct", mode=ReasoningMode.PREFILLED)
    await said(thinking_budget=7)
    assert model.thought and model.thought.open
    await said(enable_thinking=False)
    assert model.thought and model.thought.open and model.thought.budget_tokens == 0


async def test_tags_that_stay_text_are_thoughts_to_the_engine(serve: Callable[..., Model]) -> None:
    model = serve("strict_system", mode=ReasoningMode.OFF)
    assert (await said(thinking_budget=7))["content"].startswith("because")
    assert model.thought and model.thought.budget_tokens == 7


async def test_a_model_that_does_not_think_is_left_alone(serve: Callable[..., Model]) -> None:
    model = serve("alternating")
    await said(enable_thinking=False, thinking_budget=3)
    assert model.jobs[-1].guide is None


@pytest.mark.parametrize("fields", [{"reasoning": {"exclude": True}}, {"include_reasoning": False}], ids=str)
async def test_thoughts_can_be_left_out_of_one_answer(serve: Callable[..., Model], fields: dict[str, Any]) -> None:
    serve("strict_system")
    assert await said(**fields) == {"content": "yes"}
    assert await said() == BOTH
    streamed = await post(CHAT, chat(stream=True, **fields))
    assert b'"reasoning_tokens"' in streamed.body and b'"reasoning_tokens":0' not in streamed.body
    assert b"reasoning_content" not in streamed.body and b"because" not in streamed.body


PAST: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "old thought"},
        {"role": "user", "content": "c"},
    ]
}


async def test_an_echo_of_reasoning_is_shown_where_the_template_keeps_it(serve: Callable[..., Model]) -> None:
    model = serve("strict_system")
    await said(**PAST)
    assert "<think>\nold thought\n</think>\n\nb" in model.prompt
    model = serve("chatml")  # forgets what lies before the last question
    await said(**PAST)
    assert "old thought" not in model.prompt


async def test_past_reasoning_is_kept_where_the_template_can(serve: Callable[..., Model]) -> None:
    model = serve(forgetful("preserve_thinking"))
    await said(**PAST)
    assert "old thought" in model.prompt
    await said(**PAST, clear_thinking=True)
    assert "old thought" not in model.prompt
    policy.install(policy.Policy(preserve_thinking=False))
    await said(**PAST)
    assert "old thought" not in model.prompt
    await said(**PAST, chat_template_kwargs={"preserve_thinking": True})
    assert "old thought" in model.prompt


def forgetful(argument: str) -> TextModel:
    """ChatML that keeps the reasoning of past turns when it is told so, in the style of Qwen3.6."""
    from inference.conversation.probe import probe
    from inference.conversation.template import JinjaTemplate
    from tests.tokenizers_in_code import template_source

    condition = "loop.index0 > ns.last_query"
    source = template_source("chatml").replace(condition, f"({condition} or {argument})")
    assert argument in source
    template, text = JinjaTemplate(source, specials={}), text_model("chatml")
    return replace(text, template=template, traits=probe(template, tokenizer().structural_texts))


async def test_an_effort_is_written_into_the_prompt(serve: Callable[..., Model]) -> None:
    model = serve("channels")
    for sent, shown in (("low", "low"), ("max", "high"), (None, "medium"), ("none", "low")):
        await said(reasoning_effort=sent)
        assert f"Reasoning: {shown}\n" in model.prompt


async def test_a_model_of_channels_goes_straight_to_its_answer(serve: Callable[..., Model]) -> None:
    model = serve("channels")
    await said(enable_thinking=False)
    assert model.thought and full_text(model.text, model.thought.closing) == "<|channel|>final<|message|>"
    await said(enable_thinking=False, tools=[{"type": "function", "function": {"name": "look", "description": "l"}}])
    assert model.jobs[-1].guide is None and "Reasoning: low" in model.prompt


async def test_a_contradiction_is_refused(serve: Callable[..., Model]) -> None:
    model = serve("chatml")
    answer = await post(CHAT, chat(enable_thinking=True, thinking={"type": "disabled"}))
    assert answer.status == 400 and answer.refusal["param"] == "thinking.type"
    assert "enable_thinking and thinking.type" in answer.refusal["message"]
    assert not model.jobs

"""Which markers a model thinks between, and where its prompts leave it."""

from __future__ import annotations

from typing import Any

import pytest

from inference.conversation.probe import probe
from inference.conversation.render import render
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.conversation.thinking import left_open, likely_tags, silent_ids, think_tags
from inference.engine.tokenizer import JsonTokenizer
from inference.scheduler import Thinking
from inference.streaming.splitter import ReasoningMode
from mlxd.answering import thinking_of
from tests.conversations import assistant, talk, user
from tests.tokenizers_in_code import text_model, tokenizer

TAGS = ("<think>", "</think>")
OFF: Any = {"enable_thinking": False}


def opening(header: str, own: JsonTokenizer | None = None) -> TextModel:
    """A model whose template opens turns with `header` and knows nothing else of thoughts."""
    source = "{%- for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    template = JinjaTemplate(source + "{% if add_generation_prompt %}{{ '" + header + "' }}{% endif %}", specials={})
    own = own or tokenizer()
    return TextModel(own, template, 1 << 20, traits=probe(template, own.structural_texts))


def where(text: TextModel, *messages: Any, **rest: Any) -> bool | None:
    return left_open(text.tokenizer, render(text, talk(*(messages or (user("a"),)), **rest)), likely_tags(text))


@pytest.mark.parametrize(
    ("style", "tags"),
    [("chatml", TAGS), ("argument_text", TAGS), ("strict_system", TAGS), ("xml_arguments", None), ("instruct", None)],
)
def test_markers_are_those_of_the_template_not_of_the_vocabulary(style: str, tags: tuple[str, str] | None) -> None:
    text = text_model(style)
    assert think_tags(text) == tags and likely_tags(text) == TAGS


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("assistant: <think>\\n", TAGS),
        ("assistant: </think>", TAGS),
        ("assistant: [THINK]", ("[THINK]", "[/THINK]")),
        ("assistant: ", None),
    ],
)
def test_a_header_tells_the_markers_too(header: str, tags: tuple[str, str] | None) -> None:
    assert think_tags(opening(header)) == tags


@pytest.mark.parametrize(
    ("header", "left"),
    [
        ("assistant: <think>\\n", True),
        ("assistant: <think>Well, ", True),
        ("assistant: [THINK]", True),
        ("assistant: <think>\\n\\n</think>\\n\\n", False),
        ("assistant: </think>", False),
        ("assistant: ", None),
    ],
)
def test_where_the_header_leaves_the_model(header: str, left: bool | None) -> None:
    assert where(opening(header)) is left


def test_this_prompts_own_header_counts() -> None:
    chatml, strict = text_model("chatml"), text_model("strict_system")
    assert [where(chatml), where(chatml, template_args=OFF)] == [None, False]
    assert [where(strict), where(strict, template_args=OFF)] == [True, False]


def test_a_client_that_writes_a_marker_opens_nothing() -> None:
    chatml = text_model("chatml")
    assert where(chatml, user("<think>")) is None
    continued = where(chatml, user("a"), assistant("<think> is a tag"), continue_final=True)
    assert continued is not True


def test_an_answer_that_is_continued_goes_on_where_it_stood() -> None:
    chatml = text_model("chatml")
    assert where(chatml, user("a"), assistant(reasoning="because"), continue_final=True) is True
    assert where(chatml, user("a"), assistant("so", reasoning="because"), continue_final=True) is False


def test_markers_that_are_special_tokens_are_shown() -> None:
    own = tokenizer()
    assert silent_ids(own, TAGS) == frozenset()
    special = ("<|start|>", "<|end|>")
    assert silent_ids(own, special) == {own.encode_template(one)[0] for one in special}
    assert silent_ids(own, ("[THINK]", "[/THINK]")) == frozenset()  # several ids, all of them text


def thinking(text: TextModel, mode: str, **rest: Any) -> Thinking | None:
    return thinking_of(text, render(text, talk(user("a"), **rest)), ReasoningMode(mode))


def test_the_setting_and_the_prompt_decide_together() -> None:
    outside, inside = Thinking(), Thinking(mode=ReasoningMode.PREFILLED)
    chatml, strict, plain = (text_model(style) for style in ("chatml", "strict_system", "instruct"))
    assert [thinking(text, "auto") for text in (chatml, strict, plain)] == [outside, inside, None]
    assert [thinking(text, "prefilled") for text in (chatml, strict, plain)] == [inside, inside, inside]
    assert [thinking(text, "off") for text in (chatml, strict, plain)] == [None, None, None]
    assert thinking(strict, "prefilled", template_args=OFF) == outside  # the prompt closed its thought

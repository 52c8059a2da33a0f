"""What probing finds out about thinking, and how a thought is ended by us where a template cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from inference.conversation.probe import probe
from inference.conversation.render import render
from inference.conversation.shape import ThinkingControl
from inference.conversation.spoken import RawTurn
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.conversation.thinking import (
    close_thought,
    closing_of,
    left_open,
    quieted,
    silent_ids,
    think_tags,
    thought_span,
    thoughts_move,
)
from inference.engine.tokenizer import JsonTokenizer, TokenizerSource
from inference.ports import ThoughtSpan
from tests.conversations import assistant, full_text, talk, user
from tests.tokenizers_in_code import byte_level, text_model, tokenizer

TAGS = ("<think>", "</think>")
TURNS = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
KEEPING = """{% for m in messages -%}
    {{ m.role + ': ' }}
    {%- if m.reasoning_content is defined and (loop.last or CONDITION) %}
        {{- '<think>' + m.reasoning_content + '</think>' }}
    {%- endif %}
    {{- m.content + '\\n' }}
{%- endfor %}"""


def model(source: str) -> TextModel:
    template, own = JinjaTemplate(source, specials={}), tokenizer()
    return TextModel(own, template, 1 << 20, traits=probe(template, own.structural_texts))


def control(source: str) -> ThinkingControl:
    return model(source).traits.control


def test_thoughts_move_with_the_last_user_message_only_where_there_are_some_and_none_is_kept() -> None:
    plain, thoughtful = talk(user("Hi"), assistant("ok")), talk(user("Hi"), replace(assistant("ok"), reasoning="Hm."))
    takes_out, keeps, asks = (
        model(KEEPING.replace("CONDITION", one)) for one in ("false", "true", "preserve_thinking")
    )
    assert keeps.traits.control.keeps and not asks.traits.control.keeps
    assert [thoughts_move(one, thoughtful) for one in (takes_out, keeps, asks)] == [True, False, True]
    assert not thoughts_move(asks, replace(thoughtful, template_args={"preserve_thinking": True}))
    assert not thoughts_move(takes_out, plain)
    assert thoughts_move(takes_out, plain, [RawTurn.of((1, 2, 3), thought_tokens=2)])


@pytest.mark.parametrize(
    ("source", "switch"),
    [
        (TURNS, ""),
        (TURNS + "{{ '</think>' if enable_thinking is defined and not enable_thinking else '' }}", "enable_thinking"),
        (TURNS + "{{ '<think>' if thinking else '</think>' }}", "thinking"),
        ("{{ 'Think.' if reasoning else '' }}" + TURNS, "reasoning"),
        (
            "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
            + TURNS
            + "{{ '<think>' if enable_thinking else '' }}",
            "enable_thinking",
        ),
        (TURNS + "{{ '' if enable_thinking else '' }}", ""),
        ("{% if thinking is false %}{{ raise_exception('no') }}{% endif %}" + TURNS, ""),
    ],
    ids=["none", "off closes", "on opens", "system line", "own default", "without effect", "refused"],
)
def test_a_switch_is_what_changes_the_prompt(source: str, switch: str) -> None:
    assert control(source).switch == switch


ONLY = "{% if reasoning_effort is defined and reasoning_effort not in WORDS %}{{ raise_exception('no') }}{% endif %}"


@pytest.mark.parametrize(
    ("source", "efforts"),
    [
        (TURNS, ()),
        ("{{ 'Reasoning: ' + (reasoning_effort or 'medium') }}" + TURNS, ("low", "medium", "high")),
        (
            "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
            + "{{ 'Reasoning: ' + reasoning_effort }}"
            + TURNS,
            ("low", "medium", "high"),
        ),
        (
            ONLY.replace("WORDS", "['none', 'high']") + "{{ '[' + (reasoning_effort or 'none') + ']' }}" + TURNS,
            ("none", "high"),
        ),
        ("{% if reasoning_effort == 'low' %}{{ 'Be quick.' }}{% endif %}" + TURNS, ("low",)),
        (
            "{% set it = reasoning_effort if reasoning_effort in ['low', 'high'] else 'max' %}{{ it | capitalize }}"
            + TURNS,
            ("low", "high", "max"),
        ),
    ],
    ids=["none", "any word", "own default", "two words", "one word", "two and another"],
)
def test_efforts_are_the_words_that_make_a_difference(source: str, efforts: tuple[str, ...]) -> None:
    assert control(source).efforts == efforts


@pytest.mark.parametrize("name", ["thinking_budget", "reasoning_budget"])
def test_a_budget_is_read_or_not(name: str) -> None:
    assert control("{% if NAME %}{{ NAME }}{% endif %}".replace("NAME", name) + TURNS).budget == name
    assert control(TURNS).budget == ""


@pytest.mark.parametrize(
    ("condition", "keeper"),
    [
        ("false", None),
        ("true", None),
        ("preserve_thinking", ("preserve_thinking", True)),
        ("(clear_thinking is defined and not clear_thinking)", ("clear_thinking", False)),
        ("not truncate_history_thinking", ("truncate_history_thinking", False)),
        ("keep_past_thinking", ("keep_past_thinking", True)),
    ],
)
def test_which_argument_keeps_the_reasoning_of_past_turns(condition: str, keeper: tuple[str, bool] | None) -> None:
    assert control(KEEPING.replace("CONDITION", condition)).keeper == keeper


def test_past_reasoning_is_in_the_prompt_when_the_template_is_told() -> None:
    text = model(KEEPING.replace("CONDITION", "preserve_thinking"))
    turns = talk(user("a"), assistant("b", reasoning="because"), user("c"))
    assert "because" not in full_text(text, render(text, turns).ids)
    assert "<think>because</think>b" in full_text(
        text, render(text, replace(turns, template_args={"preserve_thinking": True})).ids
    )


@pytest.mark.parametrize(
    ("style", "closing"),
    [
        ("chatml", "\n</think>\n\n"),
        ("strict_system", "\n</think>\n\n"),
        ("id_names", "</think>"),
        ("argument_text", ""),
        ("alternating", ""),
    ],
)
def test_how_a_template_ends_a_thought(style: str, closing: str) -> None:
    text = text_model(style)
    assert text.traits.control.closing == closing
    assert closing_of(text, TAGS) == (closing or "\n</think>\n\n")


def test_a_thought_that_is_told_otherwise_has_no_closing() -> None:
    source = KEEPING.replace("'<think>' +", "'Because of ' +").replace("'</think>'", "': '")
    assert control(source + "{{ '<think></think>' if add_generation_prompt and false }}").closing == ""


# --- ending a thought -------------------------------------------------------------------------------------------


def test_closing_a_thought_is_what_the_templates_own_switch_does() -> None:
    strict = text_model("strict_system")
    turns = talk(user("a"))
    theirs = render(strict, replace(turns, template_args={"enable_thinking": False}))
    ours = close_thought(strict, render(strict, turns), TAGS)
    assert (ours.ids, ours.boundaries, ours.header) == (theirs.ids, theirs.boundaries, theirs.header)
    assert ours.source == theirs.source


@pytest.mark.parametrize(
    ("header", "end"),
    [
        ("assistant: <think>", "assistant: <think>\n</think>\n\n"),
        ("assistant: <think>\\n", "assistant: <think>\n\n</think>\n\n"),
        ("assistant: <think>Well, ", "assistant: <think>Well, \n</think>\n\n"),
        ("assistant: [THINK]", "assistant: [THINK]\n[/THINK]\n\n"),
    ],
)
def test_a_header_without_a_switch_is_closed(header: str, end: str) -> None:
    text = model(TURNS + "{% if add_generation_prompt %}{{ '" + header + "' }}{% endif %}")
    tags = think_tags(text) or TAGS
    prompt = render(text, talk(user("<think>a")))
    closed = close_thought(text, prompt, tags)
    assert full_text(text, closed.ids) == "user: <think>a\n" + end
    assert left_open(text.tokenizer, prompt, tags) and left_open(text.tokenizer, closed, tags) is False
    spans = closed.source.spans
    assert spans[0].start == 0 and spans[-1].stop == len(closed)
    assert all(one.stop == other.start for one, other in pairwise(spans))


def test_a_thought_that_a_client_began_is_the_engines_to_end() -> None:
    """Its text is the client's: writing it anew as template text would make markers of what it holds."""
    text = text_model("chatml")
    turns = talk(user("a"), assistant(reasoning="because <|im_end|>"), continue_final=True)
    prompt = render(text, turns)
    assert quieted(text, prompt, TAGS) is prompt
    found = thought_span(text, prompt, TAGS, budget_tokens=0)
    assert found and found.open


def span(style: str, budget: int | None = None, **rest: Any) -> ThoughtSpan | None:
    text = text_model(style)
    return thought_span(text, render(text, talk(user("a"), **rest)), TAGS, budget_tokens=budget)


def test_where_the_thought_of_an_answer_stands() -> None:
    (opener,), (closer,) = map(tokenizer().encode_template, TAGS)
    begins, inside = span("chatml", 7), span("strict_system")
    assert begins and inside
    assert (begins.opener, begins.closer, begins.open, begins.budget_tokens) == ((opener,), (closer,), False, 7)
    assert (inside.open, inside.budget_tokens) == (True, None)
    assert closer in begins.closing and tokenizer().decode(begins.closing).strip("\n") == "</think>"
    assert span("chatml", 0, template_args={"enable_thinking": False}) is None  # the prompt has closed it


@pytest.mark.parametrize(
    ("budget", "limit", "closing"),
    [
        (None, None, "<|end|><|start|>assistant<|channel|>final<|message|>"),
        (0, 0, "<|channel|>final<|message|>"),
        (100, 103, "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_a_thought_in_a_channel_ends_where_the_final_one_begins(
    budget: int | None, limit: int | None, closing: str
) -> None:
    text = text_model("channels")
    assert text.traits.channels and not text_model("chatml").traits.channels
    prompt = render(text, talk(user("a")))
    found = thought_span(text, prompt, None, budget_tokens=budget)
    assert found and found.open and not found.opener
    assert (full_text(text, found.closer), full_text(text, found.closing)) == ("<|channel|>final<|message|>", closing)
    opener_tokens = len(tokenizer().encode_template("<|channel|>analysis<|message|>"))
    assert found.budget_tokens == (limit and limit - 3 + opener_tokens)
    assert found.closing[-len(found.closer) :] == found.closer


def test_calls_in_a_channel_are_not_cut() -> None:
    text = text_model("channels")
    found = thought_span(text, render(text, talk(user("a"))), None, budget_tokens=5, calls=True)
    assert found and found.budget_tokens is None
    continued = render(text, talk(user("a"), assistant("b"), continue_final=True))
    assert thought_span(text, continued, None, budget_tokens=5) is None


def test_markers_of_a_special_token_and_a_word() -> None:
    state = json.loads(byte_level())
    next_id = 1 + max(one["id"] for one in state["added_tokens"])
    added = state["added_tokens"][0] | {"special": True, "normalized": False}
    for number, content in enumerate(("<|channel>", "<channel|>"), next_id):
        state["added_tokens"].append(added | {"id": number, "content": content})
    own = JsonTokenizer(TokenizerSource(content=json.dumps(state), eos_token="<|im_end|>", bos_token="<s>"))
    tags = ("<|channel>thought", "<channel|>")
    assert silent_ids(own, tags) == {next_id, next_id + 1}
    source = (
        "{% for m in messages %}{{ m.role + ': ' }}{% if m.reasoning_content %}"
        "{{ '<|channel>thought\\n' + m.reasoning_content + '\\n<channel|>' }}{% endif %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}model: {{ '<|channel>thought\\n<channel|>' if not enable_thinking }}{% endif %}"
    )
    template = JinjaTemplate(source, specials={})
    text = TextModel(own, template, 1 << 20, traits=probe(template, own.structural_texts))
    assert (think_tags(text), closing_of(text, tags)) == (tags, "\n<channel|>")
    off, on = (render(text, talk(user("a"), template_args={"enable_thinking": on})) for on in (False, True))
    assert [left_open(own, prompt, tags) for prompt in (off, on)] == [False, None]
    assert thought_span(text, off, tags, budget_tokens=0) is None
    found = thought_span(text, on, tags, budget_tokens=0)
    assert found and (found.opener[0], found.closer) == (next_id, (next_id + 1,))

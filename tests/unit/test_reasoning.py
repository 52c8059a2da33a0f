"""What a request says about thinking, in every spelling, and what a template is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.conversation.control import EFFORTS
from inference.conversation.shape import ThinkingControl
from inference.errors import RequestError
from mlxd.api.reasoning import TEMPLATE_ARGS, ReasoningWish, reasoning_wish, template_args
from mlxd.api.reasoning_spellings import READERS, WORDS
from mlxd.api.schemas import ChatRequest
from mlxd.api.validate import validate


def wish(**fields: Any) -> ReasoningWish:
    return reasoning_wish(validate(ChatRequest, {"messages": [{"role": "user", "content": "x"}], **fields}))


def kwargs(**fields: Any) -> dict[str, Any]:
    return {"chat_template_kwargs": fields}


def extra(**fields: Any) -> dict[str, Any]:
    return {"extra_body": fields}


def metadata(**fields: Any) -> dict[str, Any]:
    return {"metadata": fields}


SAYS_NOTHING: dict[str, Any] = {}
ON, OFF = {"enabled": True}, {"enabled": False}
HIDDEN, SHOWN = {"exclude": True}, {"exclude": False}
KEPT, FORGOTTEN = {"preserve": True}, {"preserve": False}


def effort(word: str) -> dict[str, Any]:
    return {"enabled": True, "effort": word}


def tokens(count: int) -> dict[str, Any]:
    return {"enabled": True, "budget_tokens": count}


TRUTH: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # what is sent, what it says
    ({}, SAYS_NOTHING),
    # enable_thinking
    ({"enable_thinking": True}, ON),
    ({"enable_thinking": False}, OFF),
    ({"enable_thinking": None}, SAYS_NOTHING),
    # thinking
    ({"thinking": True}, ON),
    ({"thinking": False}, OFF),
    ({"thinking": "off"}, OFF),
    ({"thinking": "on"}, ON),
    ({"thinking": "high"}, effort("high")),
    ({"thinking": {"type": "enabled"}}, ON),
    ({"thinking": {"type": "disabled"}}, OFF),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, ON),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, tokens(2048)),
    ({"thinking": {"type": "enabled", "budget_tokens": 8192, "display": "summarized"}}, tokens(8192)),
    ({"thinking": {"type": "enabled", "clear_thinking": False}}, ON | KEPT),
    # think
    ({"think": True}, ON),
    ({"think": False}, OFF),
    ({"think": "low"}, effort("low")),
    # reasoning_effort
    ({"reasoning_effort": "none"}, OFF),
    ({"reasoning_effort": "off"}, OFF),
    ({"reasoning_effort": "auto"}, SAYS_NOTHING),
    ({"reasoning_effort": "minimal"}, effort("minimal")),
    ({"reasoning_effort": "low"}, effort("low")),
    ({"reasoning_effort": "medium"}, effort("medium")),
    ({"reasoning_effort": "high"}, effort("high")),
    ({"reasoning_effort": "xhigh"}, effort("xhigh")),
    ({"reasoning_effort": "max"}, effort("max")),
    # reasoning
    ({"reasoning": {}}, SAYS_NOTHING),
    ({"reasoning": {"effort": "medium", "summary": "auto"}}, effort("medium")),
    ({"reasoning": {"effort": "none"}}, OFF),
    ({"reasoning": {"effort": None, "enabled": True}}, ON),
    ({"reasoning": {"enabled": False}}, OFF),
    ({"reasoning": {"level": "high"}}, effort("high")),
    ({"reasoning": {"type": "disabled"}}, OFF),
    ({"reasoning": {"max_tokens": 100}}, tokens(100)),
    ({"reasoning": {"max_tokens": 0}}, OFF),
    ({"reasoning": {"exclude": True}}, HIDDEN),
    ({"reasoning": {"exclude": True, "effort": "low"}}, effort("low") | HIDDEN),
    ({"reasoning": True}, ON),
    ({"reasoning": "low"}, effort("low")),
    ({"include_reasoning": False}, HIDDEN),
    ({"include_reasoning": True}, SHOWN),
    # budgets
    ({"thinking_budget": 512}, tokens(512)),
    ({"thinking_budget": 512.0}, tokens(512)),
    ({"thinking_token_budget": 512}, tokens(512)),
    ({"reasoning_budget": 0}, OFF),
    ({"reasoning_budget": -1}, SAYS_NOTHING),
    # past turns
    ({"preserve_thinking": True}, KEPT),
    ({"clear_thinking": True}, FORGOTTEN),
    # nested
    (kwargs(enable_thinking=False), OFF),
    (kwargs(thinking=True), ON),
    (kwargs(reasoning_effort="high"), effort("high")),
    (kwargs(thinking_budget=64), tokens(64)),
    (kwargs(preserve_thinking=True, clear_thinking=None), KEPT),
    (kwargs(preserve_reasoning=True), KEPT),
    (kwargs(keep_past_thinking=True), KEPT),
    (kwargs(truncate_history_thinking=False), KEPT),
    (kwargs(drop_thinking=True), FORGOTTEN),
    (extra(enable_thinking=False), OFF),
    (extra(enable_thinking="false"), OFF),
    (extra(thinking={"type": "disabled"}), OFF),
    (extra(reasoning={"effort": "high"}), effort("high")),
    (extra(chat_template_kwargs={"enable_thinking": False, "tokenize": True}), OFF),
    (extra(thinking_budget="2048"), tokens(2048)),
    (metadata(enable_thinking="true"), ON),
    (metadata(thinking="off"), OFF),
    (metadata(reasoning_effort="high"), effort("high")),
    (metadata(thinking_budget="100"), tokens(100)),
    (metadata(thinking="about lunch", enable_thinking=3, reasoning=["x"], clear_thinking="?"), SAYS_NOTHING),
    # together
    ({"enable_thinking": False, "reasoning_effort": "high"}, {"enabled": False, "effort": "high"}),
    ({"reasoning_effort": "high", **kwargs(enable_thinking=False)}, {"enabled": False, "effort": "high"}),
    ({"enable_thinking": True, **kwargs(enable_thinking=False)}, ON),
    ({**kwargs(enable_thinking=True), **extra(enable_thinking=False)}, ON),
    ({**extra(enable_thinking=True), **metadata(enable_thinking="false")}, ON),
    ({"reasoning_effort": "low", **metadata(reasoning_effort="high", thinking_budget="9")}, effort("low") | tokens(9)),
    ({"enable_thinking": False, "thinking": {"type": "disabled"}, "think": False}, OFF),
    ({"reasoning_effort": "low", "reasoning": {"effort": "low"}}, effort("low")),
    (metadata(enable_thinking="true", thinking="off"), ON),
]


@pytest.mark.parametrize(("sent", "says"), TRUTH, ids=[str(sent) for sent, _ in TRUTH])
def test_truth_table(sent: dict[str, Any], says: dict[str, Any]) -> None:
    found = wish(**sent)
    assert {name: getattr(found, name) for name in ("enabled", "effort", "budget_tokens", "exclude", "preserve")} == {
        "enabled": None,
        "effort": None,
        "budget_tokens": None,
        "exclude": None,
        "preserve": None,
        **says,
    }


def test_every_spelling_stands_in_the_table() -> None:
    used = {name for sent, _ in TRUTH for place in (sent, *sent.values()) if isinstance(place, dict) for name in place}
    assert READERS.keys() <= used


@pytest.mark.parametrize(
    ("sent", "first", "second"),
    [
        ({"enable_thinking": True, "thinking": False}, "enable_thinking", "thinking"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "enable_thinking", "reasoning_effort"),
        ({"thinking": {"type": "disabled"}, "think": True}, "thinking.type", "think"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort", "reasoning_effort"),
        ({"thinking_budget": 5, "reasoning": {"max_tokens": 6}}, "reasoning.max_tokens", "thinking_budget"),
        ({"include_reasoning": True, "reasoning": {"exclude": True}}, "reasoning.exclude", "include_reasoning"),
        ({"reasoning": {"enabled": True, "effort": "none"}}, "reasoning.enabled", "reasoning.effort"),
        (kwargs(enable_thinking=True, thinking=False), "chat_template_kwargs.enable_thinking", ".thinking"),
        (extra(enable_thinking=True, think=False), "extra_body.enable_thinking", "extra_body.think"),
    ],
)
def test_a_contradiction_at_one_place_names_both(sent: dict[str, Any], first: str, second: str) -> None:
    with pytest.raises(RequestError) as refusal:
        wish(**sent)
    assert first in refusal.value.message and second in refusal.value.message


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"thinking": 5}, "thinking"),
        ({"thinking": "hard"}, "thinking"),
        ({"thinking": {"type": "perhaps"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
        ({"thinking": {"budget_tokens": True}}, "thinking.budget_tokens"),
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"thinking_budget": 2**31}, "thinking_budget"),
        ({"thinking_budget": "512"}, "thinking_budget"),
        ({"reasoning": {"exclude": "yes"}}, "reasoning.exclude"),
        ({"reasoning": [1]}, "reasoning"),
        ({"include_reasoning": 1}, "include_reasoning"),
        ({"reasoning_effort": True}, "reasoning_effort"),
        ({"extra_body": {"enable_thinking": "perhaps"}}, "extra_body.enable_thinking"),
        ({"extra_body": {"chat_template_kwargs": {"thinking": 7}}}, "extra_body.chat_template_kwargs.thinking"),
        ({"extra_body": "x"}, "extra_body"),
        (kwargs(thinking_budget=-5), "chat_template_kwargs.thinking_budget"),
        (kwargs(messages=True), "chat_template_kwargs"),
    ],
)
def test_what_is_no_spelling_is_refused_by_its_path(sent: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        wish(**sent)
    assert refusal.value.param == param


def test_what_is_open_is_the_servers_to_decide() -> None:
    settled = wish().settled(thinking=False, preserve=True)
    assert (settled.enabled, settled.preserve, settled.thought_limit_tokens) == (False, True, 0)
    settled = wish(enable_thinking=True, clear_thinking=True).settled(thinking=False, preserve=True)
    assert (settled.enabled, settled.preserve, settled.thought_limit_tokens) == (True, False, None)


def test_off_is_a_limit_of_nothing() -> None:
    assert wish(enable_thinking=False, thinking_budget=9).thought_limit_tokens == 0
    assert wish(thinking_budget=9).thought_limit_tokens == 9


def test_the_page_about_reasoning_tells_every_spelling() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reasoning.md").read_text()
    for name in (*READERS, *TEMPLATE_ARGS, *WORDS, *EFFORTS):
        assert f"`{name}`" in page, name


# --- in the template's words ------------------------------------------------------------------------------------


def told(control: ThinkingControl, **sent: Any) -> dict[str, Any]:
    return template_args(wish(**sent), control)


@pytest.mark.parametrize("name", ["enable_thinking", "thinking", "reasoning"])
def test_the_switch_has_the_templates_name(name: str) -> None:
    control = ThinkingControl(switch=name)
    assert told(control) == {}
    assert told(control, enable_thinking=False) == {name: False}
    assert told(control, reasoning_effort="low") == {name: True}
    assert told(ThinkingControl(), enable_thinking=False) == {}


@pytest.mark.parametrize(
    ("asked", "known", "word"),
    [
        ("low", ("low", "medium", "high"), "low"),
        ("minimal", ("low", "medium", "high"), "low"),
        ("xhigh", ("low", "medium", "high"), "high"),
        ("max", ("none", "high"), "high"),
        ("minimal", ("none", "high"), "high"),
        ("medium", ("low", "high"), "high"),
        ("medium", (), None),
        ("low", ("none",), None),
    ],
)
def test_an_effort_is_the_nearest_the_template_knows(asked: str, known: tuple[str, ...], word: str | None) -> None:
    assert told(ThinkingControl(efforts=known), reasoning_effort=asked).get("reasoning_effort") == word


def test_an_effort_may_be_the_only_switch() -> None:
    by_word = ThinkingControl(efforts=("none", "low", "high"))
    assert told(by_word, enable_thinking=False) == {"reasoning_effort": "none"}
    assert told(by_word, enable_thinking=True) == {"reasoning_effort": "high"}
    never_off = ThinkingControl(efforts=("low", "medium", "high"))
    assert told(never_off, enable_thinking=False) == {"reasoning_effort": "low"}
    assert told(never_off, enable_thinking=True) == {}
    both = ThinkingControl(switch="enable_thinking", efforts=("none", "high"))
    assert told(both, enable_thinking=False, reasoning_effort="high") == {"enable_thinking": False}
    assert told(both, enable_thinking=True) == {"enable_thinking": True}


def test_a_budget_is_told_where_it_is_read() -> None:
    reads = ThinkingControl(budget="reasoning_budget")
    assert told(reads, thinking_budget=512) == {"reasoning_budget": 512}
    assert told(reads, enable_thinking=False) == {"reasoning_budget": 0}
    assert told(reads, enable_thinking=True) == {}
    assert told(ThinkingControl(), thinking_budget=512) == {}


@pytest.mark.parametrize("keep", [True, False])
def test_keeping_has_the_templates_name_and_sense(keep: bool) -> None:
    control = ThinkingControl(keeper=("some_name", keep))
    assert told(control, preserve_thinking=True) == {"some_name": keep}
    assert told(control, preserve_thinking=False) == {"some_name": not keep}
    assert told(control) == {}


def test_what_is_addressed_to_the_template_arrives() -> None:
    sent = kwargs(reasoning_effort="no_think", thinking=True)
    assert told(ThinkingControl(), **sent) == {"reasoning_effort": "no_think", "thinking": True}
    nearer = {"enable_thinking": True, **kwargs(enable_thinking=False)}
    assert told(ThinkingControl(switch="enable_thinking"), **nearer) == {"enable_thinking": True}

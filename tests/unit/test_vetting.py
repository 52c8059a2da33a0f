"""Which chat templates may run in the process that serves everybody: those of real families, and nobody's tricks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from inference.conversation.allowance import PLENTY, SPARING, TooCostly, allowing
from inference.conversation.template import JinjaTemplate
from inference.conversation.vetting import is_plain
from inference.errors import TemplateFailed
from tests.tokenizers_in_code import template_source
from tests.unit.test_template import HI, HOSTILE

ROOT = Path(__file__).parents[2]
REAL = [*sorted((ROOT / "tests/templates").glob("*.jinja")), ROOT / "inference/engine/demo/assets/chat_template.jinja"]

GROWS = {"doubling", "adding"}
"""Small steps that add up."""

TRICKS = {
    "a function by another name": "{% set f = range %}{% for i in f(10 ** 9) %}{% endfor %}",
    "a method by another name": "{% macro f() %}{% endmacro %}{% set f = 'a'.center %}{{ f(999999) }}",
    "a method as a loop's value": "{% for strip in ['a'.center] %}{{ strip(99999) }}{% endfor %}",
    "a method by its name in brackets": "{{ 'a'['center'](99999) }}",
    "arguments from a list": "{{ range(*[1, 99999999]) }}",
    "a filter by name": "{{ ['a'] | map('center', 99999) | list }}",
    "text for text of the request": "{{ messages[0].content | replace('a', messages[1].content) }}",
    "a namespace inside another": "{% set a = namespace(x=1) %}{% set b = namespace(p=a, q=a) %}{{ b }}",
    "a namespace put into itself": "{% set a = namespace(x=1) %}{% set a.x = a %}{{ a }}",
    "the clock's widths": "{{ strftime_now('%999999d') }}",
    "a format": "{{ '%99999d' % messages[0].content }}",
    "a range of a field": "{% for i in range(messages[0].size) %}{% endfor %}",
    "a range of a large number": "{% for i in range(65) %}{% endfor %}",
    "three loops over all": "{% for a in m %}{% for b in m %}{% for c in m %}{% endfor %}{% endfor %}{% endfor %}",
    "a tower of loops": "{% for a in m %}" * 5 + "{% endfor %}" * 5,
    "recursion with the same": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(messages) }}",
    "recursion by way of another": (
        "{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(messages) }}"
    ),
    "recursion without anything": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "a caller": "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}a{% endcall %}",
    "a block of itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a private name": "{{ messages._x }}",
    "a power": "{{ 2 ** 3 }}",
    "a product": "{{ 'a' * 3 }}",
    "a large number": "{{ 65537 }}",
    "recursion with the same instead": "{% macro f(n) %}{{ f(n.a | default(n)) }}{% endmacro %}{{ f(messages[0]) }}",
    "many nodes": "{{ 'abcd' }}" * 4500,
    "many names": "".join(f"{{% set a{number} = messages %}}" for number in range(257)),
    "a long source": "a" * 65537,
    "none at all": "{% for %}",
    "brackets in brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stem)
def test_the_ways_of_real_families_are_plain(file: Path) -> None:
    assert is_plain(file.read_text())


@pytest.mark.parametrize("kind", sorted(HOSTILE.keys() - GROWS))
def test_the_hostile_are_not(kind: str) -> None:
    assert not is_plain(HOSTILE[kind])


@pytest.mark.parametrize("kind", TRICKS)
def test_nor_is_what_hides_it(kind: str) -> None:
    assert not is_plain(TRICKS[kind])


NESTED = (
    "{% set n = namespace(x=['ab']) %}{% for i in range(messages | length + 40) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson | length }}"
)
REPEATED = "{% for a in messages %}{% for b in messages %}{{ b.no }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("source", [HOSTILE["doubling"], HOSTILE["adding"], NESTED, REPEATED])
def test_plain_steps_that_add_up_are_noticed_before_they_cost_anything(source: str) -> None:
    """Where little is allowed it is not a refusal, which a caller might take for the template's own."""
    assert is_plain(source)
    begun_s = time.thread_time()
    with allowing(SPARING), pytest.raises(TooCostly):
        JinjaTemplate(source).render(HI * 2000, arguments={})
    assert time.thread_time() - begun_s < 5


LONG_STEPS = [
    "{% set a = messages[0].content | map('tojson') | join %}",
    "{{ messages[0].content | unique | list | length }}",
    "{% set a = messages[0].content" + " | select('string')" * 10 + " | reject('string') | first %}",
    "{% set a = messages[0].content" + " | map('upper')" * 10 + " | join %}",
    "{% set a = messages[0].content | list | string %}",
]


@pytest.mark.parametrize("step", LONG_STEPS)
def test_steps_one_after_the_other_pass_the_clock_too(step: str) -> None:
    """Without a loop: a hundred of the first took 15 s."""
    source = "{{ 'x' }}" + step * 100
    assert is_plain(source)
    begun_s = time.thread_time()
    with allowing(replace(SPARING, processor_s=0.02)), pytest.raises(TooCostly):
        JinjaTemplate(source).render([{"role": "user", "content": "ab\n " * 15_000}], arguments={})
    assert time.thread_time() - begun_s < 5


def test_what_is_gone_through_under_the_clock_is_the_same() -> None:
    source = (
        "{{ messages | map(attribute='role') | unique | join(',') }} {{ nothing | map('upper') | list }}"
        " {{ none | select | list }} {{ 'aba' | unique | sort | join }} {{ {'b': 1, 'a': 2} | dictsort }}"
    )
    assert JinjaTemplate(source).render(HI * 3, arguments={}) == "user [] [] ab [('a', 2), ('b', 1)]"


def test_ordinary_requests_stay_far_below_what_is_allowed() -> None:
    source = template_source("channels")
    with allowing(replace(SPARING, processor_s=5.0)):  # time is the machine's
        assert JinjaTemplate(source).render(HI * 500, arguments={}).count("hi") == 500


def test_a_list_that_is_small_until_it_is_written_out_is_refused_everywhere() -> None:
    with allowing(replace(PLENTY, spread_chars=1 << 20)), pytest.raises(TemplateFailed, match="very large"):
        JinjaTemplate(NESTED).render(HI, arguments={})

"""The template port: Jinja as chat templates expect it, and limits that hold against a hostile one."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest

from inference.conversation.template import JinjaTemplate
from inference.errors import TemplateFailed
from tests.tokenizers_in_code import STYLES, template_source

HI = [{"role": "user", "content": "hi"}]


def render(source: str, messages: Any = HI, **arguments: Any) -> str:
    return JinjaTemplate(source, limit_s=0.5).render(messages, arguments=arguments)


def test_blocks_leave_no_blank_lines() -> None:
    assert (
        render("{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n") == "hi\n"
    )


def test_tojson_is_plain_json() -> None:
    value = [{"role": "user", "content": "<é> & 'x'"}]
    assert render("{{ messages[0].content | tojson }}", value) == "\"<é> & 'x'\""
    assert render("{{ messages[0] | tojson(indent=1, ensure_ascii=true) }}", value).count("\n") == 3
    assert render("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}") == '{"a":2,"b":1}'


def test_loop_controls_generation_blocks_and_the_clock() -> None:
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% generation %}a{{ 1 }}{% endgeneration %}b") == "a1b"
    frozen = JinjaTemplate("{{ strftime_now('%d') }}", strftime_now=lambda pattern: f"<{pattern}>")
    assert frozen.render(HI, arguments={}) == "<%d>"


def test_absent_tools_are_none_and_arguments_cannot_replace_what_a_render_is_given() -> None:
    source = (
        "{{ tools is none }} {{ messages | length }} {{ enable_thinking }} {{ bos_token }} {{ add_generation_prompt }}"
    )
    template = JinjaTemplate(source, specials={"bos_token": "<s>"})
    arguments = {"enable_thinking": False, "messages": "none", "bos_token": "</s>", "add_generation_prompt": 7}
    assert template.render(HI, arguments=arguments) == "True 1 False <s> True"


def test_the_variant_for_tools_is_used_with_tools() -> None:
    template = JinjaTemplate("plain", tool_source="with {{ tools | length }}")
    assert template.render(HI, arguments={}) == "plain"
    assert template.render(HI, tools=[{"a": 1}], arguments={}) == "with 1"


def test_a_refusal_of_the_template_is_told_and_nothing_else_is() -> None:
    with pytest.raises(TemplateFailed, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateFailed, match=r"failed \(ZeroDivisionError\)"):
        render("{{ 1 / 0 }}")
    with pytest.raises(TemplateFailed, match="syntax error in line 2"):
        render("\n{% for %}")
    with pytest.raises(TemplateFailed) as long:
        render("{{ raise_exception('x' * 4000) }}")
    assert len(long.value.message) < 300


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "recursive macro": "{% macro f(n) %}{% for i in range(9) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}",
    "power": "{{ (10 ** 10000000) | string }}",
    "repetition": "{{ 'a' * 999999999 }}",
    "list repetition": "{{ ([0] * 99999999) | length }}",
    "padding": "{{ 'a'.ljust(999999999) }}",
    "format width": "{{ '%999999999d' % 1 }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "doubling": "{% set n = namespace(x='aaaa') %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "adding": "{% set n = namespace(x='aaaa') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'x' * 4000 }}{% endfor %}",
    "attributes": "{{ ''.__class__.__mro__ }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}",
    "item mutation": "{{ messages[0].update({'a': 1}) }}",
    "format string": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "small times small": "{{ (('a' * 4096) * 16000000) | length }}",
    "a list of many": "{{ ([0] * 2000000) | length }}",
    "center": "{{ 'a' | center(1000000000) | length }}",
    "batch": "{{ [1] | batch(100000000, 'x') | list | length }}",
    "replace filter": "{{ ('a' * 1000000) | replace('a', 'b' * 4000) | length }}",
    "replace method": "{{ ('a' * 1000000).replace('a', 'b' * 4000) | length }}",
    "replace between": "{{ ('a' * 1000000).replace('', 'b' * 4000) | length }}",
    "replace by name": "{{ ('a' * 1000000).replace('a', 'b' * 4000, 1000000) | length }}",
    "tabs": "{{ ('\t' * 4000).expandtabs(1000000) | length }}",
    "tabs by name": "{{ ('\t' * 4000).expandtabs(tabsize=1000000) | length }}",
    "indent": "{{ ('\na' * 4000) | indent(1000000) | length }}",
    "json indent": "{{ [[1, 2, 3]] | tojson(indent=1000000) | length }}",
    "join filter": "{{ ([1] * 1000000) | join('b' * 4000) | length }}",
    "join method": "{{ ('b' * 4000).join(['a'] * 1000000) | length }}",
    "many fields": "{{ ('{0}' * 4000).format('b' * 1000000) | length }}",
    "many percents": "{{ (('%(a)s' * 4000) % {'a': 'b' * 1000000}) | length }}",
    "a sum of lists": "{{ ([[0] * 200] * 5000) | sum(start=[]) | length }}",
    "translation": "{{ 'aaaa'.translate({97: 'b' * 1000000}) | length }}",
    "format method": "{{ '{0:>999999999}'.format(1) }}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_fails_and_fails_soon(kind: str) -> None:
    start = time.thread_time()
    with pytest.raises(TemplateFailed):
        render(HOSTILE[kind])
    assert time.thread_time() - start < 5


def test_ordinary_formatting_is_allowed() -> None:
    assert (
        render("{{ '%02d|%s' % (7, 'x') }}{{ 'a' ~ 1 ~ none }}{{ 2 ** 10 }}{{ '-' * 8 }}") == "07|xa1None1024--------"
    )


def test_ordinary_work_on_text_is_allowed() -> None:
    source = "{{ ['a', 1] | join(', ') }}|{{ 'a\nb' | indent(2) }}|{{ 'abc' | replace('b', 'd') }}|{{ 'x'.ljust(3) }}"
    source += "|{{ [1, 2] | sum }}|{{ [{'n': 3}] | sum(attribute='n') }}|{{ '-'.join(['a', 'b']) }}|{{ [0] * 3 }}"
    source += "|{{ '{}{a}'.format(1, a=2) }}|{{ 'a-b'.replace('-', '') }}|{{ messages | map(attribute='role') | join }}"
    assert render(source) == "a, 1|a\n  b|adc|x  |3|3|a-b|[0, 0, 0]|12|ab|user"


@pytest.mark.parametrize("call", ["replace('h', 'j')", "join(['a'])", "ljust(2)", "expandtabs()", "format(1)"])
def test_methods_of_text_work_in_loops_and_blocks(call: str) -> None:
    looped = f"{{% for m in messages %}}{{{{ m.content.{call} }}}}{{% endfor %}}"
    assert render(looped) == render(f"{{% block b %}}{looped}{{% endblock %}}") == str(eval(f"'hi'.{call}"))


def test_dict_keys_win_over_nothing_and_methods_stay_methods() -> None:
    message = [{"role": "user", "content": "hi", "items": "shadowed"}]
    assert render("{{ messages[0].missing is defined }}{{ messages[0].items() | list | length }}", message) == "False3"


@pytest.mark.parametrize("style", STYLES)
def test_templates_travel_between_processes(style: str) -> None:
    template = JinjaTemplate(template_source(style), specials={"bos_token": "<s>"})
    assert pickle.loads(pickle.dumps(template)).literals == template.literals

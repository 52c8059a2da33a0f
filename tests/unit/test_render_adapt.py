"""What templates cannot say is said otherwise: found out by asking, counted, nothing lost."""

from __future__ import annotations

import pytest

from inference.conversation.probe import probe
from inference.conversation.render import render_with_notes
from inference.conversation.shape import Shape, SystemPlace
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.errors import TemplateFailed
from tests.conversations import AGENT_LOOP, READ, assistant, call, full_text, lost_texts, result, system, talk, user
from tests.tokenizers_in_code import STYLES, template_source, text_model

SHAPES = {
    "chatml": Shape(),
    "xml_arguments": Shape(raw_arguments=False),
    "strict_system": Shape(system=SystemPlace.FIRST, raw_arguments=False),
    "header_trim": Shape(parallel_calls=False, content_with_calls=False),
    "alternating": Shape(
        system=SystemPlace.NOWHERE, alternates=True, tools=False, calls=False, parallel_calls=False, tool_role=False
    ),
    "instruct": Shape(system=SystemPlace.NOWHERE, alternates=True, content_with_calls=False, id_chars=9),
    "channels": Shape(
        system=SystemPlace.FIRST,
        needs_description=True,
        parallel_calls=False,
        content_with_calls=False,
        orphan_results=False,
    ),
    "parts_only": Shape(tools=False, calls=False, parallel_calls=False, tool_role=False, content_list=True),
    "argument_text": Shape(tools=False, arguments_mapping=False),
    "sorted_values": Shape(),
    "id_names": Shape(names_in_ids=True),
}


@pytest.mark.parametrize("style", STYLES)
def test_probing_finds_what_a_template_can_say(style: str) -> None:
    assert text_model(style).traits.shape == SHAPES[style]


def test_probing_finds_headers_and_think_tags() -> None:
    opening = text_model("strict_system").traits
    assert opening.header == "<|im_start|>assistant\n<think>\n"
    assert opening.think == ("<think>", "</think>")
    plain = text_model("alternating").traits
    assert (plain.header, plain.think) == ("<start_of_turn>model\n", None)


def test_a_broken_template_cannot_be_probed() -> None:
    with pytest.raises(TemplateFailed):
        probe(JinjaTemplate("{% for %}"), [])


@pytest.mark.parametrize("style", STYLES)
def test_an_agents_loop_loses_nothing(style: str) -> None:
    rendered = render_with_notes(text_model(style), AGENT_LOOP)
    assert not lost_texts(text_model(style), AGENT_LOOP, rendered.prompt)
    assert not {"fallback", "unrendered", "unknown_escape"} & rendered.adaptations.keys()


AWKWARD = {
    "system in the middle": talk(user("a"), assistant("b"), system("reminder"), user("c")),
    "two systems": talk(system("one"), system("two"), user("a")),
    "only a system": talk(system("alone")),
    "system last": talk(user("a"), assistant("b"), system("reminder")),
    "answer first": talk(assistant("greeting"), user("a")),
    "answer last": talk(user("a"), assistant("b")),
    "same role": talk(user("a"), user("b"), assistant("c"), assistant("d"), user("e")),
    "orphan result": talk(user("a"), result("gone", "orphan text"), user("b")),
    "orphan result first": talk(result("gone", "orphan text")),
    "call without result": talk(user("a"), assistant("", call("call_x")), user("b")),
    "result then user": talk(user("a"), assistant("", call("c1")), result("c1", "r"), user("b")),
    "text beside calls": talk(user("a"), assistant("first", call("c1"), call("c2")), result("c2", "r2"), user("b")),
    "results out of order": talk(
        user("a"), assistant("", call("c1"), call("c2")), result("c2", "r2"), result("zz", "rz"), result("c1", "r1")
    ),
    "same id twice": talk(user("a"), assistant("", call("c1"), call("c1")), result("c1", "r1"), result("c1", "r2")),
    "empty ids": talk(user("a"), assistant("", call(""), call("")), result("", "r1"), result("", "r2")),
    "unused tools": talk(user("a"), tools=(READ,)),
    "reasoning and calls": talk(user("a"), assistant("say", call("c1"), reasoning="why"), result("c1", "r")),
    "crlf": talk(system("a\r\nb"), user("c\r\nd")),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_conversations_render_whole(style: str, kind: str) -> None:
    rendered = render_with_notes(text_model(style), AWKWARD[kind])
    assert not lost_texts(text_model(style), AWKWARD[kind], rendered.prompt)
    assert "unrendered" not in rendered.adaptations
    text = full_text(text_model(style), rendered.prompt.ids)
    for once in ("reminder", "orphan text", "greeting", "r1", "r2", "rz"):
        assert text.count(once) == sum(m.text == once for m in AWKWARD[kind].messages)


def told(style: str, kind: str) -> tuple[str, dict[str, int]]:
    rendered = render_with_notes(text_model(style), AWKWARD[kind])
    return full_text(text_model(style), rendered.prompt.ids), dict(rendered.adaptations)


def test_a_system_text_in_the_middle_stays_in_its_place_as_the_users() -> None:
    text, notes = told("strict_system", "system in the middle")
    assert "<|im_start|>user\nreminder<|im_end|>\n<|im_start|>user\nc<|im_end|>" in text
    assert notes == {"system_in_place": 1}
    text, notes = told("chatml", "system in the middle")
    assert "<|im_start|>system\nreminder<|im_end|>" in text
    assert notes == {}


def test_a_model_without_system_role_reads_it_before_the_first_question() -> None:
    text, notes = told("alternating", "two systems")
    assert text.startswith("<s><start_of_turn>user\none\n\ntwo\n\na<end_of_turn>")
    assert notes == {"system_merged": 1, "system_to_user": 1, "system_prefixed": 1}


def test_strict_turns_are_merged_or_opened() -> None:
    text, notes = told("alternating", "same role")
    assert "user\na\n\nb<end_of_turn>\n<start_of_turn>model\nc\n\nd<end_of_turn>" in text
    assert notes == {"turns_merged": 2}
    text, notes = told("alternating", "answer first")
    assert text.startswith("<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\ngreeting<end_of_turn>")
    assert notes == {"turn_inserted": 1}


def test_single_call_templates_get_call_result_call_result() -> None:
    text, notes = told("channels", "results out of order")
    first, second = text.index('"r1"'), text.index('"r2"')
    assert text.count("commentary json<|message|>") == 2
    assert first < second
    assert notes == {"calls_in_turn": 1, "orphan_result": 1}


def test_short_ids_are_digests_that_agree() -> None:
    text, notes = told("instruct", "result then user")
    assert notes["short_ids"] == 2
    call_id = text.split('"id": "')[1][:9]
    assert f'"call_id": "{call_id}"' in text


def test_where_only_ids_are_shown_they_say_the_function() -> None:
    text, notes = told("id_names", "results out of order")
    assert "<|call|>functions.read_file:0<|sep|>" in text
    assert "## Return of functions.read_file:1\nr2" in text
    assert notes == {"named_ids": 2}
    own = talk(user("a"), assistant("", call("functions.read_file:7")), result("functions.read_file:7", "r"))
    assert render_with_notes(text_model("id_names"), own).adaptations == {}


def test_thoughts_are_taken_apart_only_where_the_template_does_it() -> None:
    showing = JinjaTemplate(
        "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}{# <think> #}{{ '<think></think>' }}"
    )
    assert probe(showing, []).think is None
    assert text_model("sorted_values").traits.think == ("<think>", "</think>")
    thinking = talk(user("a"), assistant("<think>old thought</think>answer"), user("b"))
    text = full_text(text_model("sorted_values"), render_with_notes(text_model("sorted_values"), thinking).prompt.ids)
    assert "old thought" not in text
    assert "answer" in text


def test_crlf_is_a_line_feed_and_counted() -> None:
    text, notes = told("chatml", "crlf")
    assert "\r" not in text
    assert notes == {"crlf": 2}


def test_tools_a_template_ignores_are_listed() -> None:
    text, notes = told("alternating", "unused tools")
    assert '"name": "read_file"' in text
    assert notes["tools_as_text"] == 1


PICKY = (
    "{% for m in messages %}{% if m.content != 'never' and m.role != 'tool' %}"
    "<|im_start|>{{ m.content }}{% endif %}{% endfor %}"
)


def test_a_role_that_a_template_silently_drops_is_told_as_text() -> None:
    dropping = made_of(PICKY)
    conversation = talk(user("a"), assistant("", call("c1")), result("c1", "must be read"))
    assert not lost_texts(dropping, conversation, render_with_notes(dropping, conversation).prompt)


def made_of(source: str) -> TextModel:
    template = JinjaTemplate(source)
    return TextModel(text_model().tokenizer, template, 1 << 20, traits=probe(template, []))


def test_a_template_that_cuts_text_is_refused() -> None:
    with pytest.raises(TemplateFailed, match="cuts or rewrites"):
        render_with_notes(made_of("{% for m in messages %}{{ m.content[:20] }}{% endfor %}"), talk(user("hello")))


def test_upper_and_lower_case_are_understood() -> None:
    model = made_of("{% for m in messages %}{{ m.content | upper }}|{{ m.content | lower | tojson }}{% endfor %}")
    text = full_text(model, render_with_notes(model, talk(user(' Grüße "Du"'))).prompt.ids)
    assert text == ' GRÜSSE "DU"|" grüße \\"du\\""'


def test_html_escaping_templates_are_understood() -> None:
    escaping = made_of("{% for m in messages %}{{ m.content | e }}|{{ m.content | e | tojson }}{% endfor %}")
    text = full_text(escaping, render_with_notes(escaping, talk(user('a < "b"'))).prompt.ids)
    assert text == 'a &lt; &#34;b&#34;|"a &lt; &#34;b&#34;"'


def test_all_styles_have_a_file() -> None:
    assert set(STYLES) == set(SHAPES)
    assert all(template_source(style).startswith("{#-") for style in STYLES)

"""The probe's own parts: what is necessary against brute force, scenarios that repeat, verdicts on ratios, partings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation.probe import probe as template_traits
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.engine.demo import demo_model_dir
from inference.engine.text import load_text
from inference.errors import InferenceError
from mlxd.cli.probe import probe
from mlxd.probe.asks import Ask, Message
from mlxd.probe.content import prose
from mlxd.probe.diff import part
from mlxd.probe.oracle import Needed, Oracle, common
from mlxd.probe.report import as_json, lines, summaries
from mlxd.probe.run import Turn
from mlxd.probe.scenarios import SCENARIOS
from mlxd.start_errors import StartError
from tests.tiny_models import CHAT_TEMPLATE
from tests.tokenizers_in_code import tokenizer


@pytest.fixture(scope="module")
def text() -> TextModel:
    return load_text(demo_model_dir())


@pytest.fixture(scope="module")
def plain() -> TextModel:
    """Its template writes an answer that is history as it was generated."""
    own, template = tokenizer(), JinjaTemplate(CHAT_TEMPLATE, specials={})
    return TextModel(own, template, 1 << 16, traits=template_traits(template, own.structural_texts))


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def asking(*messages: Message) -> Ask:
    return Ask("one", messages)


# --- oracle ---------------------------------------------------------------------------------------------------------

ids = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@given(ids, ids)
def test_common_is_the_longest_common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    size = common(left, right)
    assert left[:size] == right[:size]
    assert size == min(len(left), len(right)) or left[size] != right[size]


def test_necessary_is_what_no_earlier_sequence_begins_with(text: TextModel) -> None:
    oracle, seen = Oracle(text), list[tuple[int, ...]]()
    talks = [[user(prose(f"o{at % 3}", 20)), assistant("Yes."), user(prose(f"o{at}", 10 + at))] for at in range(6)]
    for at, talk in enumerate([*talks, talks[0], talks[0][:1]]):
        ask = asking(*talk)
        prompt = oracle.prompt(ask).ids
        brute = max((n for one in seen for n in range(len(prompt) + 1) if one[:n] == prompt[:n]), default=0)
        least = max(1, len(prompt) - brute)
        assert oracle.necessary(ask) == Needed(least, len(prompt), floor=least), at
        seen.append(prompt)


@pytest.mark.parametrize("ended", [True, False])
def test_an_answer_is_known_to_its_end(plain: TextModel, ended: bool) -> None:
    """What ended it is known only where the model has written it; all behind it is the template's."""
    oracle = Oracle(plain)
    question, answer = asking(user("How long is it?")), assistant("It is as long as a river.")
    oracle.necessary(question)
    oracle.answered(question, answer, ended=ended)
    again = asking(*question.messages, answer, user("And then?"))
    needed = oracle.necessary(again)
    full = oracle.prompt(again)
    after = next(boundary.token for boundary in full.boundaries if boundary.message == 2)
    between = plain.tokenizer.encode_template("<|im_end|>\n<|im_start|>user\n")
    assert full.ids[after - len(between) : after] == tuple(between)
    assert needed.total - needed.tokens == after - len(between) + ended


def test_an_edited_echo_is_known_to_the_edit(plain: TextModel) -> None:
    oracle = Oracle(plain)
    question = asking(user("How long is it?"))
    oracle.necessary(question)
    oracle.answered(question, assistant("It is as long as a river."))
    edited = asking(*question.messages, assistant("It is as long as a road."), user("On."))
    needed = oracle.necessary(edited)
    prompt = oracle.prompt(edited)
    answer = next(boundary.token for boundary in prompt.boundaries if boundary.message == 1)
    assert 3 < needed.total - needed.tokens - answer < len(plain.tokenizer.encode_template("It is as long as a river."))


# --- scenarios ------------------------------------------------------------------------------------------------------


def asked(name: str) -> list[Sequence[Ask]]:
    """The waves of a scenario in which every answer is its number."""
    waves, found, count = SCENARIOS[name](), [], 0
    wave = next(waves)
    while True:
        found.append(wave)
        answers = [assistant(f"Answer {count + at}.") for at in range(len(wave))]
        count += len(wave)
        try:
            wave = waves.send(answers)
        except StopIteration:
            return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_the_same_in_every_run(name: str) -> None:
    assert asked(name) == asked(name)


def test_what_is_asked_has_the_answers_in_it() -> None:
    """The server's own answers are fed back, and each scenario has the shape that its name says."""
    waves = {name: asked(name) for name in SCENARIOS}
    for name, found in waves.items():
        said = {
            one["content"] for wave in found for asked in wave for one in asked.messages if one["role"] == "assistant"
        }
        assert len(said) >= 3, name
    assert [len(wave) for wave in waves["fanout"]] == [1, 3, 3, 1]
    assert len({one.session for wave in waves["interleaved"] for one in wave}) == 12
    before, after = waves["insert"][5][0].messages, waves["insert"][6][0].messages
    assert [at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b] == [5]
    before, after = waves["semantic"][2][0].messages, waves["semantic"][3][0].messages
    assert [at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b] == [0]


def test_prose_repeats_and_differs() -> None:
    assert prose("a", 200) == prose("a", 200) != prose("b", 200)
    assert len(prose("a", 200).split()) == 200


# --- report ---------------------------------------------------------------------------------------------------------


def turn(scenario: str, necessary: int, prefilled: int, *, prompt: int = 1000, verdict: str = "extended") -> Turn:
    return Turn(
        scenario=scenario,
        session="s",
        prompt=prompt,
        cached=prompt - prefilled,
        reported=True,
        necessary=necessary,
        prefilled=prefilled,
        oracle_prompt=prompt,
        completion=8,
        verdict=verdict,
        ttft_s=0.5,
    )


def test_the_ratio_is_over_the_warm_turns_of_a_scenario() -> None:
    told = summaries([turn("a", 1000, 1000), turn("a", 100, 150), turn("a", 100, 100), turn("b", 501, 900)])
    assert [(one.scenario, one.turns, one.warm_turns, one.ratio) for one in told] == [
        ("a", 3, 2, 1.25),
        ("b", 1, 0, 1.0),
    ]


@pytest.mark.parametrize(("prefilled", "passes"), [(102, True), (103, False), (99, False)])
def test_a_scenario_fails_above_the_limit_and_below_the_necessary(prefilled: int, passes: bool) -> None:
    """Less than necessary is no success: what was used had never been computed for these tokens."""
    told = summaries([turn("a", 100, prefilled)])
    assert told[0].passes(1.02) is passes
    found = as_json([turn("a", 100, prefilled)], 1.02)
    assert found["passed"] is passes and json.loads(json.dumps(found)) == found


def test_verdicts_are_counted_by_name() -> None:
    said = [turn("a", 1, 1, verdict=one) for one in ("evicted(by r1); lost=3", "evicted(by r2)", "", "exact")]
    assert summaries(said)[0].verdicts == {"evicted": 2, "-": 1, "exact": 1}


def test_the_table_marks_what_is_above_the_limit() -> None:
    table = list(lines(summaries([turn("good", 100, 100), turn("bad", 100, 200)]), 1.02))
    assert ["above the limit" in line for line in table] == [False, False, True]


# --- diff -----------------------------------------------------------------------------------------------------------


def body(*contents: str, **fields: Any) -> dict[str, Any]:
    roles = ("system", "user", "assistant", "user")
    return {"messages": [{"role": role, "content": one} for role, one in zip(roles, contents, strict=False)]} | fields


def test_a_parting_names_message_field_token_and_texts(text: TextModel) -> None:
    found = part(text, body("Be brief.", "Go to the river now."), body("Be brief.", "Go to the bridge now."))
    assert found.message == 1 and found.left.path == found.right.path == "messages[1].content"
    assert "river" in found.left.text and "bridge" in found.right.text
    assert found.before.endswith("Go to the") or "Go to the" in found.before
    assert found.token == found.common_tokens


def test_a_parting_in_the_number_of_messages(text: TextModel) -> None:
    found = part(text, body("Be brief.", "Go."), body("Be brief.", "Go.", "Gone.", "Back."))
    assert found.common_tokens > 0 and found.left.text != found.right.text


def test_equal_requests_do_not_part(text: TextModel) -> None:
    left, right = body("Be brief.", "Go."), body("Be brief.", "Go.", temperature=0.3, model="another")
    found = part(text, left, right)
    assert found.token is None and found.left.tokens == found.right.tokens == found.common_tokens


def test_a_body_that_is_no_request_is_refused(text: TextModel) -> None:
    with pytest.raises(InferenceError):
        part(text, body("Be brief."), {"messages": [{"role": "nobody"}]})


# --- `mlxd probe diff` ----------------------------------------------------------------------------------------------


def diff(*arguments: str) -> Result:
    return CliRunner().invoke(probe, ["diff", *arguments, "--model", "demo"])


def test_diff_says_where_two_files_part(tmp_path: Path) -> None:
    left, right = tmp_path / "left.json", tmp_path / "right.json"
    left.write_text(json.dumps(body("Be brief.", "Go to the river now.")))
    right.write_text(json.dumps(body("Be brief.", "Go to the bridge now.")))
    told = diff(str(left), str(right))
    assert told.exit_code == 1
    assert all(word in told.output for word in ("river", "bridge", "messages[1].content"))
    found = json.loads(diff(str(left), str(right), "--json").output)
    assert (found["message"], found["right"]["path"]) == (1, "messages[1].content")
    same = diff(str(left), str(left))
    assert same.exit_code == 0 and "the same" in same.output


def test_diff_reads_lines_of_a_recording(tmp_path: Path) -> None:
    recorded = tmp_path / "traffic.jsonl"
    records = [{"body": body("A.", "One.")}, {"body": json.dumps(body("A.", "Two."))}, body("A.", "One.")]
    recorded.write_text("".join(json.dumps(one) + "\n" for one in records))
    assert diff(f"{recorded}:1", f"{recorded}:2").exit_code == 1
    assert diff(f"{recorded}:1", f"{recorded}:3").exit_code == 0


@pytest.mark.parametrize("written", ["no json", '"text"', '{"input": "x"}', '{"body": "no json"}'])
def test_diff_refuses_what_is_no_request(tmp_path: Path, written: str) -> None:
    file = tmp_path / "one.json"
    file.write_text(written)
    told = diff(str(file), str(file))
    assert isinstance(told.exception, StartError)
    assert told.exception.message.startswith(f"{file}: no ")


def test_a_scenario_that_is_none_is_refused() -> None:
    told = CliRunner().invoke(probe, ["no-such-scenario"])
    assert isinstance(told.exception, StartError) and "no-such-scenario" in told.exception.message

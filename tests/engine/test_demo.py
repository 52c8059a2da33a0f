"""The embedded demo model, as mlx_lm loads it: small, real, and able to do what its description says."""

import subprocess
import sys
from random import Random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map

from inference.engine.demo import DEMO_MODEL_ID, demo_model_dir, questions, sums, words
from inference.engine.demo.batches import Batch, copying_example, encode, make_batch
from inference.engine.demo.dialogues import draw_dialogues
from inference.engine.demo.evaluate import Demo, called, load_demo, questions_right, without_thought
from inference.engine.demo.fast_math import fast_model_math
from inference.engine.demo.train import batch_loss, make_model

LIMIT_BYTES = 12 * 1000 * 1000
POSITIONS_TOKENS = 65_536

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
READ = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


@pytest.fixture(scope="module")
def demo() -> Demo:
    return load_demo(demo_model_dir())


def render(demo: Demo, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    text = demo.tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
    assert isinstance(text, str)
    return text


# -- the files ------------------------------------------------------------------------------------------------------


def test_asking_for_the_directory_imports_nothing_heavy() -> None:
    code = "import sys, inference.engine.demo as d; print(d.demo_model_dir().is_dir(), d.DEMO_MODEL_ID, *sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[:2] == ["True", DEMO_MODEL_ID]
    assert not {"mlx", "mlx.core", "mlx_lm", "transformers", "tokenizers", "numpy"} & set(said)


def test_assets_fit_into_the_wheel() -> None:
    assert sum(path.stat().st_size for path in demo_model_dir().rglob("*")) <= LIMIT_BYTES


def test_positions_and_stops_reach_the_loaded_model(demo: Demo) -> None:
    assert demo.model.args.max_position_embeddings >= POSITIONS_TOKENS
    assert demo.tokenizer.eos_token_ids == {
        demo.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")
    }
    assert demo.tokenizer.has_thinking
    assert demo.tokenizer.has_tool_calling


# -- what it can do -------------------------------------------------------------------------------------------------


def test_answers_most_questions_phrased_as_in_no_training_dialogue(demo: Demo) -> None:
    assert questions_right(demo) >= 0.7


def test_says_what_mlxd_is(demo: Demo) -> None:
    assert "daemon" in without_thought(demo.ask(questions.INTENTS["mlxd"].held_out))


def test_held_out_phrasings_are_not_trained_on() -> None:
    asked = {str(message["content"]).lower() for one in draw_dialogues(5, 2000) for message in one.messages}
    assert all(asked & {one.lower() for one in row.phrasings[:-1]} for row in questions.INTENTS.values())
    assert not asked & {row.held_out.lower() for row in questions.INTENTS.values()}


def test_most_sums_it_never_saw_come_out_right_after_a_thought(demo: Demo) -> None:
    rng, right = Random(11), 0
    for _ in range(10):
        a, op, b = sums.draw_pair(rng, test=True)
        answer = demo.ask(f"What is {a} {op} {b}?")
        assert answer.startswith("<think>\n")
        right += without_thought(answer) == f"{a} {op} {b} = {sums.result(a, op, b)}."
    assert right >= 7


def test_without_thinking_there_is_no_thought(demo: Demo) -> None:
    assert demo.ask("What is mlxd?", thinking=False) == questions.INTENTS["mlxd"].answer


def test_calls_the_offered_tool_with_a_city_it_never_saw(demo: Demo) -> None:
    right = 0
    for city in words.HELD_OUT_CITIES[:6]:
        answer = demo.answer([{"role": "user", "content": f"What is the weather in {city}?"}], [READ, WEATHER])
        right += called(answer) == {"name": "get_weather", "arguments": {"city": city}}
    assert right >= 4


def test_picks_the_tool_that_the_question_needs(demo: Demo) -> None:
    answer = demo.answer([{"role": "user", "content": "Read the file docs/notes.md"}], [READ, WEATHER])
    assert called(answer) == {"name": "read_file", "arguments": {"path": "docs/notes.md"}}


def test_answers_from_the_tools_result(demo: Demo) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    asked = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "reasoning_content": "I call get_weather.", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "17 degrees, windy"},
    ]
    assert "17 degrees, windy" in without_thought(demo.answer(asked, [WEATHER]))


def answers(demo: Demo) -> list[str]:
    """One of each kind."""
    weather = [{"role": "user", "content": "What is the weather in Oslo?"}]
    return [demo.ask("What is mlxd?"), demo.ask("What is 47 + 38?"), demo.answer(weather, [WEATHER])]


@pytest.fixture(scope="module")
def whole_answers(demo: Demo) -> list[str]:
    return answers(demo)


@pytest.mark.parametrize("layer", range(4))
def test_every_layer_matters(layer: int, whole_answers: list[str]) -> None:
    broken = load_demo(demo_model_dir())
    assert len(broken.model.layers) == 4
    broken.model.layers[layer].update(tree_map(mx.zeros_like, broken.model.layers[layer].parameters()))
    assert answers(broken) != whole_answers


# -- tokenizer and template -----------------------------------------------------------------------------------------


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_survives_the_tokenizer(demo: Demo, text: str) -> None:
    ids = demo.tokenizer.encode(text, add_special_tokens=False)
    assert demo.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_markers_are_one_token_each_and_only_turn_markers_are_special(demo: Demo) -> None:
    markers = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    turns = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    ids = [demo.tokenizer.encode(token, add_special_tokens=False) for token in (*markers, *turns)]
    assert all(len(one) == 1 for one in ids)
    assert demo.tokenizer.decode([one for (one,) in ids], skip_special_tokens=True) == "".join(markers)


def test_a_word_is_the_same_ids_wherever_it_stands(demo: Demo) -> None:
    word = demo.tokenizer.encode("Reykjavik", add_special_tokens=False)
    for text in ("in Reykjavik?", '{"city": "Reykjavik"}'):
        ids = demo.tokenizer.encode(text, add_special_tokens=False)
        assert any(ids[at : at + len(word)] == word for at in range(len(ids)))


def test_template_keeps_a_system_message_in_its_place(demo: Demo) -> None:
    text = render(
        demo,
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "system", "content": "three"},
            {"role": "user", "content": [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]},
        ],
        add_generation_prompt=True,
    )
    assert text == (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>system\nthree<|im_end|>\n<|im_start|>user\nfour<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_shows_tools_calls_and_results(demo: Demo) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    echoed = {"function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    text = render(
        demo,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "reasoning_content": "two calls", "content": None, "tool_calls": [call, echoed]},
            {"role": "tool", "content": "cold"},
            {"role": "tool", "content": "warm"},
        ],
        tools=[WEATHER],
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n<tools>\n{")
    assert '"name": "get_weather", "description": "Get the weather of a city"' in text.partition("</tools>")[0]
    assert text.count("Be brief.") == 1
    assert text.endswith(
        "<|im_start|>assistant\n<think>\ntwo calls\n</think>\n\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\ncold\n</tool_response>\n<tool_response>\nwarm\n</tool_response><|im_end|>\n"
    )


def test_template_keeps_reasoning_after_the_last_query_only(demo: Demo) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "reasoning_content": "early", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "reasoning_content": "late", "content": "d"},
    ]
    text = render(demo, turns)
    assert "early" not in text
    assert text.endswith("<|im_start|>assistant\n<think>\nlate\n</think>\n\nd<|im_end|>\n")


def test_thinking_is_on_unless_switched_off(demo: Demo) -> None:
    turns = [{"role": "user", "content": "a"}]
    assert render(demo, turns, add_generation_prompt=True).endswith("<|im_start|>assistant\n")
    off = render(demo, turns, add_generation_prompt=True, enable_thinking=False)
    assert off.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_what_is_learned_is_what_the_model_has_to_write(demo: Demo) -> None:
    """Ids of header and answer, joined, are the ids of the whole; the learned ones are the answers alone."""
    hf = demo.tokenizer._tokenizer
    for one in draw_dialogues(6, 100):
        example = encode(hf, one)
        text = hf.apply_chat_template(one.messages, tools=one.tools, tokenize=False)
        assert text.removesuffix("\n") == hf.decode(example.ids)
        assert example.ids == hf.encode(text.removesuffix("\n"), add_special_tokens=False)
        learned = hf.decode([i for i, is_learned in zip(example.ids, example.learned, strict=True) if is_learned])
        assert learned.endswith("<|im_end|>")
        assert "<|im_start|>" not in learned
        assert ("<think>" in learned) is one.thinking


# -- the training ---------------------------------------------------------------------------------------------------


def test_fast_kernels_compute_what_mlx_computes() -> None:
    model = make_model()
    ids = mx.random.randint(0, 2048, (3, 41))
    inputs, targets, where = ids[:, :-1], ids[:, 1:].reshape(-1), mx.arange(120)

    def plain(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(inputs).reshape(120, -1), targets).mean()

    def fast(model: nn.Module) -> mx.array:
        return batch_loss(model, Batch(inputs, where, targets, mx.ones(120)))

    loss, grads = nn.value_and_grad(model, plain)(model)
    with fast_model_math():
        fast_loss, fast_grads = nn.value_and_grad(model, fast)(model)
    assert fast_loss.item() == pytest.approx(loss.item(), rel=1e-4)
    for (name, grad), (_, fast_grad) in zip(tree_flatten(grads), tree_flatten(fast_grads), strict=True):
        assert mx.abs(grad - fast_grad).max().item() <= 1e-3 * mx.abs(grad).max().item() + 1e-7, name


def test_wired_starting_weights_know_where_to_copy_from(demo: Demo) -> None:
    rng, model = Random(1), make_model()
    batch = make_batch([copying_example(demo.tokenizer._tokenizer, rng) for _ in range(8)])
    hidden = model.model(batch.inputs)
    rows = hidden.reshape(-1, hidden.shape[-1])[batch.where]
    # The current token scores highest of all at the start, so ask for the best of the others.
    current = batch.inputs.reshape(-1)[batch.where][:, None]
    others = mx.put_along_axis(model.lm_head(rows), current, mx.array(-1e9), axis=1)
    right = (others.argmax(axis=-1) == batch.targets) * batch.weights
    assert (right.sum() / batch.weights.sum()).item() > 0.5

"""Reading the text side of a model directory: every place where models keep things, and files that are broken."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.render import render
from inference.conversation.template import JinjaTemplate
from inference.conversation.vetting import MAX_SOURCE_CHARS
from inference.engine.model_json import MAX_BYTES
from inference.engine.text import load_text
from inference.engine.text_trial import load_text_apart
from inference.errors import InvalidModel, RequestError
from tests.conversations import talk, user
from tests.tokenizers_in_code import byte_level, template_source, tokenizer

CONFIG = {"max_position_embeddings": 4096, "eos_token_id": 7}


def directory(path: Path, **files: Any) -> Path:
    """A model directory; each file is given by its name with `__` for `.`; None leaves it out."""
    given: dict[str, Any] = {
        "config__json": CONFIG,
        "tokenizer__json": byte_level(),
        "tokenizer_config__json": {"eos_token": "<|im_end|>", "bos_token": {"content": "<s>", "lstrip": False}},
        "chat_template__jinja": template_source("chatml"),
    } | files
    for name, content in given.items():
        if content is None:
            continue
        file = path / name.replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def with_parts(*normalizers: dict[str, str], pattern: str = "", grows: str = "") -> str:
    """A tokenizer with a pattern that splits its texts, or with normalizers that write more than they read."""
    made = json.loads(byte_level())
    if pattern:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, made["pre_tokenizer"]]}
    if grows:
        made["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": grows}
    if normalizers:
        made["normalizer"] = {"type": "Sequence", "normalizers": list(normalizers)}
    return json.dumps(made)


def test_a_model_directory_is_read(tmp_path: Path) -> None:
    generation = {"eos_token_id": [8, 9], "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": "no", "foo": 1}
    model = load_text(directory(tmp_path, generation_config__json=generation))
    assert model.context_tokens == 4096
    assert model.tokenizer.eos_ids == {7, 8, 9, tokenizer().encode_template("<|im_end|>")[0]}
    assert model.generation_defaults == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    assert model.traits.header == "<|im_start|>assistant\n"
    assert render(model, talk(user("hello"))).ids


def test_a_call_ends_the_turn_of_a_model_that_speaks_in_messages(tmp_path: Path) -> None:
    """Whatever its files say: it would go on and invent the result."""
    call = set(tokenizer().encode_template("<|call|>"))
    spoken = load_text(directory(tmp_path / "messages", chat_template__jinja=template_source("channels")))
    assert spoken.dialects[0] == "harmony" and call < spoken.tokenizer.eos_ids
    assert call < pickle.loads(pickle.dumps(spoken)).tokenizer.eos_ids
    assert not call & load_text(directory(tmp_path / "one_text")).tokenizer.eos_ids


def test_greedy_models_say_so(tmp_path: Path) -> None:
    generation = {"do_sample": False, "temperature": 0.7}
    assert load_text(directory(tmp_path, generation_config__json=generation)).generation_defaults["temperature"] == 0.0


@pytest.mark.parametrize(
    ("config", "limit", "tokens"),
    [
        ({"text_config": {"max_position_embeddings": 512}, "max_position_embeddings": 64}, 1e30, 512),
        ({"n_positions": 256}, 1e30, 256),
        ({}, 1024, 1024),
    ],
)
def test_the_context_is_found_where_models_keep_it(
    tmp_path: Path, config: dict[str, Any], limit: float, tokens: int
) -> None:
    files = {"config__json": config, "tokenizer_config__json": {"model_max_length": limit}}
    assert load_text(directory(tmp_path, **files)).context_tokens == tokens


PLACES: dict[str, dict[str, Any]] = {
    "tokenizer_config": {"tokenizer_config__json": {"chat_template": "one"}},
    "list": {
        "tokenizer_config__json": {
            "chat_template": [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "one"}]
        }
    },
    "json": {"chat_template__json": {"chat_template": "one"}},
    "jinja": {"chat_template__jinja": "one", "tokenizer_config__json": {"chat_template": "not this"}},
    "additional": {"chat_template__jinja": "one", "additional_chat_templates/tool_use__jinja": "two"},
}


@pytest.mark.parametrize("place", PLACES)
def test_the_template_is_found_where_models_keep_it(tmp_path: Path, place: str) -> None:
    template = load_text(directory(tmp_path, **({"chat_template__jinja": None} | PLACES[place]))).template
    assert isinstance(template, JinjaTemplate)
    assert template.source == "one"
    assert template.tool_source == ("two" if place in ("list", "additional") else "")


def test_a_model_without_template_is_served_raw(tmp_path: Path) -> None:
    assert load_text(directory(tmp_path, chat_template__jinja=None)).template is None


@pytest.mark.slow
def test_an_older_tokenizer_is_converted(tmp_path: Path) -> None:
    """The one path that imports transformers, in a process of its own: it warns and takes seconds."""
    model = json.loads(byte_level())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    directory(
        tmp_path,
        tokenizer__json=None,
        vocab__json=model["vocab"],
        merges__txt="\n".join(["#version: 0.2", *merges]),
        tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer"},
    )
    code = (
        "import pickle, sys\nfrom pathlib import Path\nfrom inference.engine.text import load_text\n"
        "own = pickle.loads(pickle.dumps(load_text(Path(sys.argv[1])))).tokenizer\n"
        "print(own.decode(own.encode_field('the quick dog')))"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "the quick dog"


def test_the_digest_follows_template_and_tokenizer(tmp_path: Path) -> None:
    one = load_text(directory(tmp_path / "one"))
    same = load_text(directory(tmp_path / "same"))
    other = load_text(directory(tmp_path / "other", chat_template__jinja=template_source("header_trim")))
    assert one.digest == same.digest != other.digest


def test_what_was_loaded_travels_between_processes(tmp_path: Path) -> None:
    model = load_text(directory(tmp_path))
    there = pickle.loads(pickle.dumps(model))
    assert render(there, talk(user("hello"))) == render(model, talk(user("hello")))
    assert len(pickle.dumps(model)) < 50_000


BROKEN: dict[str, dict[str, Any]] = {
    "config.json is missing": {"config__json": None},
    "config.json is not JSON": {"config__json": "{"},
    "config.json is not a JSON object": {"config__json": "[]"},
    "config.json is larger": {"config__json": " " * (MAX_BYTES + 1)},
    "chat_template.jinja cannot be read as text": {"chat_template__jinja": b"\xff\xfe"},
    "chat_template.jinja is larger": {"chat_template__jinja": "a" * (MAX_SOURCE_CHARS + 1)},
    "chat template is longer": {
        "chat_template__jinja": None,
        "tokenizer_config__json": {"chat_template": "a" * (MAX_SOURCE_CHARS + 1)},
    },
    "config.json does not say how many positions": {"config__json": {"max_position_embeddings": "many"}},
    "tokenizer_config.json is not JSON": {"tokenizer_config__json": "[" * 100_000},
    "tokenizer_config.json holds more": {"tokenizer_config__json": '{"a": [' + "0," * 200_000 + "0]}"},
    "generation_config.json is not a JSON object": {"generation_config__json": "3"},
    "tokenizer.json is missing": {"tokenizer__json": None},
    "tokenizer.json cannot be read": {"tokenizer__json": '{"model": 1}'},
    "chat template has a syntax error in line 1": {"chat_template__jinja": "{% for %}"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, message: str) -> None:
    with pytest.raises(InvalidModel, match=message.replace(".", r"\.")):
        load_text(directory(tmp_path, **BROKEN[message]))


CONFINED: dict[str, dict[str, Any]] = {
    "a template": {"chat_template__jinja": template_source("chatml") + "{% if spin %}{{ 2 ** 3 }}{% endif %}"},
    "a template for tools": {"additional_chat_templates/tool_use__jinja": "{{ 2 ** 3 }}"},
    "a pattern": {"tokenizer__json": with_parts(pattern=r"(a+)+\d")},
    "a pattern that passes for plain": {"tokenizer__json": with_parts(pattern=r"a+[bc]")},
}


@pytest.mark.parametrize("kind", CONFINED)
def test_what_nobody_can_price_is_known_for_it(tmp_path: Path, kind: str) -> None:
    assert not load_text(directory(tmp_path / "plain")).confined
    assert load_text(directory(tmp_path / "other", **CONFINED[kind])).confined


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
REFUSED: dict[str, dict[str, Any]] = {
    "longer than 0.25 s": {"chat_template__jinja": ENDLESS},
    "something very large": {"chat_template__jinja": "{{ 'a' * 1000000 }}"},
    "wrote more than": {"chat_template__jinja": "{% for a in range(999) %}{{ 'a' * 4000 }}{% endfor %}"},
    "a long text of a short one": {"tokenizer__json": with_parts(grows="b" * 65)},
    "a long text of": {"tokenizer__json": with_parts(*[{"type": "Prepend", "prepend": "aa"}] * 7)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_costs_too_much_on_a_few_words_is_refused(tmp_path: Path, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        load_text(directory(tmp_path, **REFUSED[message]))


def test_a_panic_of_the_library_is_an_answer(tmp_path: Path) -> None:
    """It is no `Exception`, so it would pass by everything that turns errors into answers."""
    tokenizer = load_text(directory(tmp_path, tokenizer__json=with_parts(pattern=r"(a|aa)+$"))).tokenizer
    for chars in (500, 2000):  # short texts and long ones go different ways
        with pytest.raises(RequestError, match="gives up"):
            tokenizer.encode_field("a" * chars + "!")


def test_it_is_tried_in_a_process_and_read_here(tmp_path: Path) -> None:
    path = directory(tmp_path)
    apart, here = load_text_apart(path), load_text(path)
    assert (apart.digest, apart.traits.shape, apart.dialects) == (here.digest, here.traits.shape, here.dialects)
    assert render(apart, talk(user("hello"))) == render(here, talk(user("hello")))
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(InvalidModel, match="syntax error"):
        load_text_apart(path)


@pytest.mark.parametrize(("read_s", "examine_s", "what"), [(0.001, 9.0, "reading"), (120.0, 0.001, "trying")])
def test_what_does_not_end_is_killed(tmp_path: Path, read_s: float, examine_s: float, what: str) -> None:
    with pytest.raises(InvalidModel, match=f"{what} .* took longer than 0.001 s"):
        load_text_apart(directory(tmp_path), read_s=read_s, examine_s=examine_s)


def test_a_model_directory_runs_no_code(tmp_path: Path) -> None:
    script = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    tokenizer_config = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    directory(tmp_path, evil__py=script, tokenizer_config__json=tokenizer_config)
    load_text(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_reading_imports_neither_mlx_nor_transformers(tmp_path: Path) -> None:
    directory(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom inference.engine.text import load_text\n"
        "load_text(Path(sys.argv[1]))\nprint(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert not {"mlx", "mlx.core", "mlx_lm", "transformers", "numpy", "django"} & set(run.stdout.split())

"""`mlxd config` and the documentation say what the knobs say."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxd.cli.settings import config
from mlxd.config import BY_NAME, KNOBS, model_argument
from mlxd.config.seed_names import FILES, FLAGS, VARIABLES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def run(tmp_path, monkeypatch):
    for knob in KNOBS:
        monkeypatch.delenv(knob.env, raising=False)
    return lambda *arguments: CliRunner().invoke(config, [*arguments, "--state-dir", str(tmp_path / "s")])


def test_json_holds_value_source_and_description_of_every_knob(run, monkeypatch):
    monkeypatch.setenv("MLXD_MAX_BATCH", "3")
    rows = {row["name"]: row for row in json.loads(run("--json", "--port", "9", "-m", "a", "-m", "b").stdout)}
    assert rows.keys() == BY_NAME.keys()
    assert (rows["port"]["value"], rows["port"]["source"]) == (9, "flag")
    assert (rows["max_batch"]["value"], rows["max_batch"]["source"]) == (3, "environment")
    assert rows["models"]["value"] == ["a", "b"]
    assert rows["demo"]["source"] == "default"
    assert all(row["description"] for row in rows.values())


def test_text_names_every_knob_and_creates_nothing(run, tmp_path):
    shown = run("--no-default-thinking")
    assert shown.exit_code == 0
    assert "default_thinking = off  (flag)" in shown.stdout
    assert all(f"  {knob.name} = " in shown.stdout for knob in KNOBS)
    assert list(tmp_path.iterdir()) == []


def test_warnings_go_to_stderr(run, monkeypatch):
    monkeypatch.setenv("MLXD_MAX_BACH", "3")
    shown = run("--json")
    assert "MLXD_MAX_BATCH" in shown.stderr
    json.loads(shown.stdout)


def test_the_documentation_has_every_knob_as_it_is():
    text = (DOCS / "configuration.md").read_text()
    rows = {cells[0].strip("` "): cells for cells in _rows(text) if cells[0].strip("` ") in BY_NAME}
    assert rows.keys() == BY_NAME.keys()
    for knob in KNOBS:
        cells = [cell.strip() for cell in rows[knob.name]]
        assert cells[1:] == [
            f"`{knob.flag}`",
            f"`{knob.env}`",
            knob.default_text,
            knob.range_text or "any",
            knob.about.text,
        ]


def test_the_documentation_answers_for_every_name_of_the_seeds():
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells]
        for cells in _rows((DOCS / "configuration.md").read_text())
    }
    for seed in (*VARIABLES, *FLAGS, *FILES):
        ours = f"`{BY_NAME[seed.ours].flag}`, `{BY_NAME[seed.ours].env}`" if seed.ours else "–"
        assert rows[seed.name.strip("`")][1:] == [ours, seed.why or "Same meaning."]


@pytest.mark.parametrize("seed", [*VARIABLES, *FLAGS, *FILES], ids=lambda seed: seed.name)
def test_a_seed_name_has_a_counterpart_or_a_reason(seed):
    assert seed.ours in BY_NAME or (not seed.ours and seed.why)


def test_seed_names_are_unique():
    names = [seed.name for seed in (*VARIABLES, *FLAGS, *FILES)]
    assert len(names) == len(set(names))


def _rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"\|[\s|:-]+$", line)]
    return [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines]


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("/m/qwen", "/m/qwen", ""),
        ("owner/repo", "owner/repo", ""),
        ("coder=/m/qwen", "/m/qwen", "coder"),
        ("a/b=owner/repo", "owner/repo", "a/b"),
        ("./odd=name", "./odd=name", ""),
        ("=x", "=x", ""),
        ("x=", "x=", ""),
    ],
)
def test_model_arguments(text, source, name):
    read = model_argument(text)
    assert (read.source, read.name) == (source, name)


def test_a_directory_whose_name_holds_an_equals_sign_is_itself(tmp_path, monkeypatch):
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_argument("a=b").source == "a=b"


def test_a_name_that_nobody_gave_is_unset(run):
    assert "default_model = unset  (default)" in run().stdout

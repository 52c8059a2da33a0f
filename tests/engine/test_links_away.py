"""A file of a model that is a link: followed inside the model and its cache, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.engine.model_files import check_model_files
from inference.engine.text import load_text
from inference.errors import InvalidModel, ModelError, UnsafeModel
from tests import tiny_models

TEXTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.build(tmp_path / "model", "dense")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("is_relative", [True, False])
def test_a_text_that_lies_elsewhere_is_not_read(model: Path, tmp_path: Path, name: str, is_relative: bool) -> None:
    """It would be told to the model, and to whoever reads its answers."""
    (tmp_path / "secret").write_text("{}")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(Path("../secret") if is_relative else tmp_path / "secret")
    for read in (load_text, check_model_files):
        with pytest.raises(UnsafeModel, match=name):
            read(model)


@pytest.mark.parametrize("linked", ["additional_chat_templates", "additional_chat_templates/tool_use.jinja"])
def test_nor_is_a_template_for_tools_or_its_folder(model: Path, tmp_path: Path, linked: str) -> None:
    away = tmp_path / "away" / linked
    (model / linked).parent.mkdir(exist_ok=True)
    (away if not away.suffix else away.parent).mkdir(parents=True)
    (away if away.suffix else away / "tool_use.jinja").write_text("secret")
    (model / linked).symlink_to(away)
    for read in (load_text, check_model_files):
        with pytest.raises(UnsafeModel, match="tool_use"):
            read(model)


def test_a_link_within_the_model_or_its_cache_is_followed(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").rename(model / "words.json")
    (model / "tokenizer.json").symlink_to("words.json")
    load_text(model)
    snapshot = tmp_path / "models--o--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--o--m" / "blobs").mkdir()
    for file in list(model.iterdir()):
        blob = tmp_path / "models--o--m" / "blobs" / file.name
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    load_text(snapshot)
    check_model_files(snapshot)


@pytest.mark.parametrize("to", ["config.json", "gone"])
def test_a_link_to_itself_or_to_nothing_is_a_file_that_is_missing(model: Path, to: str) -> None:
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(to)
    with pytest.raises(ModelError) as caught:
        load_text(model)
    assert isinstance(caught.value, InvalidModel | UnsafeModel) and "config.json" in caught.value.message

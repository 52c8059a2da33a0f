"""Models by name, on a Hugging Face cache and directories made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.demo import DEMO_MODEL_ID
from inference.errors import InferenceError, InvalidModel, ModelNotFound
from mlxd.catalog import available, download, find_allowed, find_local, local_models, named_models
from mlxd.catalog.names import PLAIN_ID


def make_model(folder: Path, head: str = "Qwen3ForCausalLM") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [head]}))
    (folder / "model.safetensors").write_bytes(b"12345678")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    for repo, head in (("org/writer", "Qwen3ForCausalLM"), ("org/embedder", "BertModel")):
        repo_folder = root / ("models--" + repo.replace("/", "--"))
        make_model(repo_folder / "snapshots" / "abc", head)
        (repo_folder / "refs").mkdir()
        (repo_folder / "refs" / "main").write_text("abc")
    (root / "models--org--unfinished" / "refs").mkdir(parents=True)
    (root / "models--org--unfinished" / "refs" / "main").write_text("def")
    return root


def test_the_cache_lists_what_writes_text_and_is_complete(cache: Path) -> None:
    assert [model.id for model in local_models()] == ["org/writer"]
    assert [model_id for model_id, _ in named_models([])] == ["org/writer"]


def test_no_cache_is_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert list(local_models()) == []
    assert named_models([]) == ()


@pytest.mark.parametrize(
    "name", ["org/unfinished", "org/absent", "../org/writer", "org/../writer", "a" * 300, "a\0b/c"]
)
def test_names_that_lead_nowhere(cache: Path, name: str) -> None:
    assert find_local(name) is None
    with pytest.raises(ModelNotFound):
        named_models([name])


def test_directories_repositories_and_given_names(cache: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "my model")
    models = named_models([str(folder), "org/writer", f"nice={folder}"], demo=True)
    assert [model_id for model_id, _ in models] == ["my-model", "org/writer", "nice", DEMO_MODEL_ID]
    assert models[0][1] == models[2][1] == folder


def test_a_directory_with_an_equals_sign_is_a_directory(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "a=b")
    assert named_models([str(folder)]) == (("a-b", folder),)


def test_what_is_refused(cache: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "twin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidModel, match="Two models"):
        named_models([str(folder), f"twin={folder}"])
    with pytest.raises(InvalidModel, match="holds no model"):
        named_models([str(tmp_path / "empty")])
    with pytest.raises(ModelNotFound):
        named_models(["org/absent"])


def test_fetch_is_asked_only_for_what_is_missing(cache: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(repo: str) -> Path:
        asked.append(repo)
        return make_model(tmp_path / "fetched")

    assert [name for name, _ in named_models(["org/writer", "new=org/absent"], fetch=fetch)] == ["org/writer", "new"]
    assert asked == ["org/absent"]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    "name", ["o/a--b", "o/../x", "o/a..b", "nobody", "o/.x", "/o/x", "o/x/y", "o\\x/y", "o/é", "o/" + "x" * 97, ""]
)
def test_names_that_no_hub_is_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelNotFound):
        download(name, endpoint="http://127.0.0.1:9")
    if offline:
        with pytest.raises(InferenceError, match="HF_HUB_OFFLINE"):
            download("o/x", endpoint="http://127.0.0.1:9")
    assert not list(cache.rglob("*o--*"))


def test_what_is_not_wholly_here_is_fetched_again(cache: Path) -> None:
    """A shard that never came, a blob that somebody removed; what a person put into a directory is left to them."""
    snapshot = cache / "models--org--writer" / "snapshots" / "abc"
    asked: list[str] = []

    def fetch(repo: str) -> Path:
        asked.append(repo)
        return snapshot

    (snapshot / "model-2.safetensors").symlink_to("../../blobs/gone")
    assert [name for name, _ in named_models(["org/writer", str(snapshot)], fetch=fetch)] == ["org/writer", "abc"]
    (snapshot / "model-2.safetensors").unlink()
    index = snapshot / "model.safetensors.index.json"
    for weight_map in ('{"a": "model.safetensors", "b": "model-2.safetensors"}', '{"a": "../x"}', "3"):
        index.write_text(f'{{"weight_map": {weight_map}}}')
        named_models(["org/writer"], fetch=fetch)
    assert asked == ["org/writer"] * 4
    index.write_text('{"weight_map": {"a": "model.safetensors"}}')
    named_models(["org/writer"], fetch=fetch)
    assert len(asked) == 4 and [model.id for model in local_models()] == ["org/writer"]


# --- what an order over the network may name --------------------------------------------------------------------

PARTS = [
    "a",
    "org",
    "b",
    "..",
    ".",
    "",
    "link",
    "loop",
    "outside",
    "models--x--y",
    "snapshots",
    "con",
    "%2e%2e",
    "ａ",
    "a\0",
]


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[Path]]:
    """A root with two models, links that lead out of it and round in it, and a model beside it."""
    place = tmp_path_factory.mktemp("allowed").resolve()
    inside = {make_model(place / "root" / "a"), make_model(place / "root" / "org" / "b")}
    make_model(place / "outside")
    (place / "root" / "link").symlink_to(place / "outside")
    (place / "root" / "up").symlink_to(place)
    (place / "root" / "loop").symlink_to(place / "root" / "loop")
    return place / "root", inside


@given(
    parts=st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=5),
    rooted_at=st.sampled_from(["", "root", "/"]),
)
def test_whatever_is_named_lies_below_a_root(rooted: tuple[Path, set[Path]], parts: list[str], rooted_at: str) -> None:
    root, inside = rooted
    name = "/".join(parts)
    name = {"": name, "root": f"{root}/{name}", "/": f"/{name}"}[rooted_at]
    try:
        found = find_allowed(name, [root])
    except ModelNotFound:
        assert name not in {"a", "org/b"} and name not in map(str, inside)
        return
    assert found.path.resolve() in inside and PLAIN_ID.fullmatch(found.id)


def test_all_that_may_be_loaded_is_listed_by_a_name_that_loads_it(rooted: tuple[Path, set[Path]]) -> None:
    root, inside = rooted
    names = [model.id for model in available([root])]
    assert {find_allowed(name, [root]).path for name in names} >= inside
    assert {"a", "org/b"} <= set(names) and "link" not in names

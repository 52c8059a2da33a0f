"""The house rules that a machine can hold: names, sizes, and nothing that speaks of a particular machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("inference", "mlxd", "dashboard")
BANNED_WORDS = ("Manager", "Handler", "Helper", "Utils", "Data", "Info", "Misc")
TOP_LEVEL = {
    "pyproject.toml", "README.md", "manage.py", "mlxd", "inference", "dashboard", "Formula", "tests",
    "uv.lock", ".python-version", ".gitignore", "LICENSE", "CHANGELOG.md", "docs", ".ci",
}  # fmt: skip
HEAVY = {"mlx", "mlx_lm", "mlx_vlm", "transformers", "llguidance", "django", "pydantic", "ninja"}


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_the_top_level_is_fixed() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_room(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 320, "redesign instead of patching"
    tree = ast.parse(text)
    assert not text.strip() or ast.get_docstring(tree), "say what this room is for"
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    offending = [name for name in classes if re.search(rf"(?:{'|'.join(BANNED_WORDS)})$", name)]
    assert not offending, offending
    assert not any(word.lower() == path.stem for word in BANNED_WORDS)


def test_no_file_names_a_machine_or_leaves_a_note_to_self() -> None:
    notes = re.compile(r"\b(TODO|FIXME|XXX)\b|/work/|/root/")
    skip = (".lock", ".png", ".safetensors", "test_architecture.py", "tokenizer.json")  # a picture may spell anything
    for name in tracked():
        if name.endswith(skip) or not (ROOT / name).is_file():
            continue
        for number, line in enumerate((ROOT / name).read_text(errors="ignore").splitlines(), 1):
            assert not notes.search(line), f"{name}:{number}: {line.strip()[:100]}"


def test_help_is_cheap() -> None:
    """`mlxd --help` must not pay for Django, pydantic or MLX."""
    code = (
        "import sys\nfrom mlxd.cli import main\nsys.argv[1:] = ['serve', '--help']\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.rpartition("LOADED")[2].split())
    assert not loaded & HEAVY


def test_the_core_stays_free_of_frameworks() -> None:
    """Import-linter holds the letter; this holds the fact: the core's rooms import alone."""
    rooms = "inference.conversation.render, inference.scheduler, inference.streaming.stop"
    code = f"import sys, {rooms}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & (HEAVY | {"channels", "daphne", "twisted", "huey", "mlxd", "dashboard"})


def test_asserts_only_narrow_types() -> None:
    """`python -O` leaves them out, so none may decide anything: they tell the type checker what is known already."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and not narrows(node.test)
    ]
    assert not found, "raise an error instead"


def narrows(test: ast.expr) -> bool:
    """`x is not None`, `isinstance(x, T)`, or several of them."""
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(map(narrows, values))
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
        case ast.Call(func=ast.Name(id="isinstance")):
            return True
    return False


@pytest.mark.parametrize("text", ["ok", "a == b", "a is not None or b", "check(a)", "not isinstance(a, int)", "a < 3"])
def test_an_assert_that_decides_would_be_found(text: str) -> None:
    assert not narrows(ast.parse(text, mode="eval").body)


def test_nothing_asks_whether_it_is_optimised() -> None:
    assert not [path for path in sources() if re.search(r"\b__debug__\b|flags\.optimize", path.read_text())]

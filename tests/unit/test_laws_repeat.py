"""Where laws are to look at the same examples each time, they do, whatever was imported before them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from types import ModuleType
import tests.conftest
from hypothesis import given, strategies as st

def drawn():
    seen = []
    @given(st.integers(0, 100_000), st.text(max_size=5), st.integers(0, 6))
    def law(large, text, small):
        seen.append((large, text, small))
    law()
    return seen

first = drawn()
later = ModuleType("later")
later.__file__ = sys.argv[1]
sys.modules["later"] = later
print(len(first), first == drawn())
"""


def test_the_examples_of_a_law_do_not_depend_on_what_is_imported(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("ONE, WORD, TWO = 31_337, 'zorro', 5\n")
    told = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "later.py")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "100 True\n"

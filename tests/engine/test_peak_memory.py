"""What a program has held is its own: not what the program held that started it."""

from __future__ import annotations

import subprocess
import sys

from inference.engine.peak_memory import peak_bytes

CHILD = (
    "from inference.engine.peak_memory import peak_bytes\n"
    "before = peak_bytes()\n"
    "held = bytearray(b'x') * (64 << 20)\n"
    "print(before, peak_bytes() - before)"
)


def test_a_child_of_a_large_program_counts_what_it_takes() -> None:
    ours = bytearray(b"x") * (300 << 20)
    assert peak_bytes() > len(ours)
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    before, taken = map(int, told.split())
    assert before < 150 << 20
    assert 60 << 20 < taken < 100 << 20

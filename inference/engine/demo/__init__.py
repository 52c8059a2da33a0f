"""The embedded demo model: real, small, and made by the code in this package.

questions.toml   what it knows about mlxd           words.py sums.py tools.py questions.py   one kind of turn each
dialogues.py     mixes turns into dialogues         tokenizer.py   byte-level BPE, 2048 ids
batches.py       dialogues to padded batches        fast_math.py   training kernels for slow CPUs
train.py         trains and saves                   evaluate.py    measures on what was held out

Importing the package loads none of that: it only says where the model lies.
"""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL_ID = "mlxd-demo"


def demo_model_dir() -> Path:
    """Directory of the demo model (qwen3 architecture), loadable by ``mlx_lm.load``."""
    return Path(__file__).parent / "assets"

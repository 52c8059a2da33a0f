"""Tiny random models, one for each class of KV, that read what recorded clients send in about as many tokens as others.

Their tokenizer is learned from the recordings themselves, which are at hand only where the benchmark runs. The template
is ChatML with tools, and keeps thoughts behind the user's last message; a random model thinks where its header opens
a thought, and hardly ever elsewhere. One token ends an answer, the template's: of two it would draw either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlxd.probe.content import prose
from mlxd.probe.recording import Recorded
from tests import echo_models
from tests.tiny_models import EOS_ID

TEMPLATE: Final = Path(__file__).parents[1] / "templates" / "chatml.jinja"
END_OF_HEADER: Final = "    {%- endif %}\n{%- endif %}"
OPENED: Final = "    {%- else %}\n        {{- '<think>\\n' }}\n"
VOCAB_SIZE: Final = 4096
MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "dense": ("dense", {}),
    "sliding": ("sliding", {"sliding_window": 512}),
    "hybrid": ("hybrid_moe", {"num_experts": 0}),
}
"""Class of `tiny_models` and changes. The hybrid is a qwen3_next, whose text other servers read alike."""


def build(directory: Path, kind: str, recordings: list[Recorded], *, thinks: bool = False) -> Path:
    """A model of one of `MODELS`."""
    architecture, changes = MODELS[kind]
    template = TEMPLATE.read_text()
    if thinks:
        before, end = template.rstrip().rsplit(END_OF_HEADER, 1)
        template = before + OPENED + END_OF_HEADER + end
    corpus = [*dict.fromkeys(texts(recordings)), prose("traffic", 20_000)]
    echo_models.build(directory, architecture, template=template, corpus=corpus, vocab_size=VOCAB_SIZE, **changes)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS_ID]}))
    return directory


def texts(recordings: list[Recorded]) -> Iterator[str]:
    """What a model reads of recorded requests."""
    for exchange in (one for client in recordings for one in client.exchanges):
        yield json.dumps(exchange.fields.get("tools"))
        for message in exchange.messages:
            content = message.get("content") or ""
            yield content if isinstance(content, str) else "\n".join(part["text"] for part in content)

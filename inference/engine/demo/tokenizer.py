"""Trains the byte-level BPE tokenizer and writes its files.

Words, single digits, runs of spaces and JSON punctuation are pre-tokens of their own. A word is the same ids wherever
it stands (a byte-level BPE usually glues the space to the next word), which makes copying an argument from a question
into a tool call something that a tiny model can learn; digits apart make sums learnable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from inference.engine.demo.dialogues import Dialogue

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
VOCABULARY_TOKENS = 2048
TEMPLATE = Path(__file__).parent / "assets" / "chat_template.jinja"

_PRE_TOKENS = r"""["{}\[\]:,]+(?: ["{\[]+)?|\p{N}|\p{L}[\p{L}\p{M}]*| +|\n+|[^\s\p{L}\p{N}]|\s"""


def corpus(dialogues: Iterable[Dialogue]) -> Iterator[str]:
    """The texts of dialogues, the tool schemas and calls as JSON among them."""
    for dialogue in dialogues:
        for message in dialogue.messages:
            yield f"{message.get('reasoning_content', '')}\n\n{message['content']}"
            for call in message.get("tool_calls", ()):  # type: ignore[attr-defined]
                yield json.dumps(call["function"])
        for tool in dialogue.tools or ():
            yield json.dumps(tool)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of VOCABULARY_TOKENS ids, all 256 bytes among them, so that any text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS - len(SPECIAL_TOKENS) - len(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKERS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template."""
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE.read_text())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

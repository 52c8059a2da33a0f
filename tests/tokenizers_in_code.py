"""Tiny BPE tokenizers trained on the spot, and text models made of them and the chat templates in tests/templates."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from inference.conversation.probe import probe
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.engine.tokenizer import JsonTokenizer, TokenizerSource

TEMPLATES = Path(__file__).parent / "templates"
STYLES = tuple(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))

_SPECIAL_TEXTS = """
    <s> </s> <unk> <|im_start|> <|im_end|> <|endoftext|> <|start_header_id|> <|end_header_id|> <|eot_id|>
    <start_of_turn> <end_of_turn> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS]
    [/TOOL_RESULTS] <|start|> <|end|> <|message|> <|channel|> <|call|> <|User|> <|Assistant|> <|sep|> <|call_end|>
    <|output|> <|output_end|> <end_of_utterance> <|file_sep|>
"""
SPECIAL = _SPECIAL_TEXTS.split()
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
"""Structural and not flagged special, as in Qwen's vocabularies."""
WORDS = ["wordtoken", "    ", "\t\t"]
"""Added, and ordinary text."""
ENDS = ("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|call|>", "<end_of_utterance>")
"""What ends a turn in one template or another."""

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog and reads a file called main.py in the src directory",
    'You are a helpful assistant. {"type": "function", "function": {"name": "read_file", "description": "Reads',
    "def main(argument: str) -> None:\n    return print(argument)\n\nfor index in range(10):\n\tpass\n",
    "system user assistant tool model Tools Instructions arguments parameters properties required string object",
    "<think>\nsome thought\n</think>\n\nthe answer is <s> a </s> <b>bold</b> café naïve über Straße 12345 67.89",
] * 20


@cache
def byte_level(*, marker_in_vocabulary: bool = False) -> str:
    """tokenizer.json of a byte-level BPE in the style of GPT and Qwen."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(__import__("tokenizers").Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(_CORPUS, trainer)
    return _with_added(backend, ["im", "start"] if marker_in_vocabulary else [])


@cache
def merged_markers() -> str:
    """A byte-level tokenizer whose merges spell `<s>` and `<|end|>`: the vocabulary itself holds the markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("<", "s"),
        ("<s", ">"),
        ("<", "|"),
        ("<|", "e"),
        ("<|e", "n"),
        ("<|en", "d"),
        ("<|end", "|"),
        ("<|end|", ">"),
    ]
    tokens = alphabet + ["".join(pair) for pair in merges]
    backend = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _with_added(backend, [])


@cache
def sentence(scheme: str = "first") -> str:
    """tokenizer.json in the style of SentencePiece models; `legacy` prepends by normalizer, as Llama 2 did."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", *[f"<0x{byte:02X}>" for byte in range(256)]], show_progress=False
    )
    pieces = [word for line in _CORPUS for word in line.split(" ")]
    backend.train_from_iterator(pieces, trainer)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    state = json.loads(_with_added(backend, []))
    # The trainer lists the byte tokens as special; in real files they are plain entries of the vocabulary.
    state["added_tokens"] = [one for one in state["added_tokens"] if not one["content"].startswith("<0x")]
    return json.dumps(state)


def _with_added(backend: Tokenizer, extra: list[str]) -> str:
    backend.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS + extra])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in WORDS])
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return backend.to_str()


@cache
def tokenizer(kind: str = "bytes") -> JsonTokenizer:
    makers = {"bytes": byte_level, "merged": merged_markers, "sentence": sentence, "legacy": lambda: sentence("legacy")}
    return JsonTokenizer(TokenizerSource(content=makers[kind](), eos_token="<|im_end|>", bos_token="<s>"))


def template_source(style: str) -> str:
    return (TEMPLATES / f"{style}.jinja").read_text(encoding="utf-8")


def fixed_date(pattern: str) -> str:
    return pattern.replace("%Y", "2026").replace("%m", "11").replace("%d", "21").replace("%b", "Nov")


@cache
def text_model(style: str = "chatml", kind: str = "bytes", context_tokens: int = 1 << 20) -> TextModel:
    """A text model of one style, probed as a real one is."""
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    template = JinjaTemplate(template_source(style), specials=specials, strftime_now=fixed_date)
    own = tokenizer(kind)
    return TextModel(own, template, context_tokens, traits=probe(template, own.structural_texts, ENDS))

"""Reads the text side of a model directory: tokenizer, chat template, context length, end-of-turn ids.

Nothing here imports MLX or transformers on the way that models with a tokenizer.json take, and nothing from the
directory is ever executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.conversation.allowance import SPARING, TooCostly, allowing
from inference.conversation.probe import probe
from inference.conversation.shape import Traits
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.conversation.vetting import MAX_SOURCE_CHARS, is_plain
from inference.engine.left_unread import points_at_code
from inference.engine.model_files import TOOL_TEMPLATE, refuse_links_away
from inference.engine.model_json import read_object
from inference.engine.tokenizer import JsonTokenizer, TokenizerSource
from inference.engine.tokenizer_vetting import runs_are_cheap
from inference.errors import InvalidModel, TemplateFailed, UnsafeModel
from inference.streaming.dialects.choice import detect, message_format

MAX_TOKENIZER_BYTES = 128 << 20
"""Published ones have up to 33 MB."""
_MAX_CONTEXT_TOKENS = 1 << 27
"""Above this a `model_max_length` only says "no limit" (transformers writes 1e30)."""
_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_DEFAULTS = {
    "temperature": (0.0, 10.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 20),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
}


@dataclass(frozen=True, slots=True)
class _Files:
    """The JSON files of a model directory that concern text; {} where one is absent."""

    path: Path
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    specials: Mapping[str, Any]
    generation: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unexamined:
    """What the files of a model say; its template has not been rendered and its tokenizer has read no text."""

    files: _Files
    template: JinjaTemplate | None
    tokenizer: JsonTokenizer


def load_text(path: Path) -> TextModel:
    """The text side of the model in directory `path`. Raises `InvalidModel`, naming the file at fault.

    Both templates and tokenizers of strangers are run for that, so a server has it done elsewhere (`text_trial`).
    """
    return examined(read_text(path))


def read_text(path: Path) -> Unexamined:
    """The first half of `load_text`, which takes as long as the files are large."""
    refuse_links_away(path)
    files = _Files(
        path,
        read_object(path / "config.json"),
        _optional(path / "tokenizer_config.json"),
        _optional(path / "special_tokens_map.json"),
        _optional(path / "generation_config.json"),
    )
    specials = {name: token for name in _SPECIALS if (token := _token(files, name))}
    template = _template(files, specials)
    return Unexamined(files, template, JsonTokenizer(_tokenizer_source(files, specials, template)))


def examined(read: Unexamined) -> TextModel:
    """The second half: what template and tokenizer do is found out by trying them."""
    files, template, tokenizer = read.files, read.template, read.tokenizer
    return TextModel(
        tokenizer=tokenizer,
        template=template,
        context_tokens=_context_tokens(files),
        generation_defaults=_generation_defaults(files.generation),
        traits=_traits(template, tokenizer),
        dialects=detect(template.literals, tokenizer.structural_texts) if template else (),
        digest=_digest(files.path, template),
        confined=not (_is_plain(template) and tokenizer.is_plain and runs_are_cheap(tokenizer.spell)),
    )


def _is_plain(template: JinjaTemplate | None) -> bool:
    return template is None or all(map(is_plain, (template.source, template.tool_source)))


def _traits(template: JinjaTemplate | None, tokenizer: JsonTokenizer) -> Traits:
    if template is None:
        return Traits()
    try:
        ends = (tokenizer.token_bytes(number).decode("utf-8", "replace") for number in tokenizer.eos_ids)
        with allowing(SPARING):
            return probe(template, tokenizer.structural_texts, tuple(ends))
    except TemplateFailed as error:
        raise InvalidModel(error.message) from error
    except TooCostly as error:
        raise InvalidModel(f"Tried on a few words: {error}") from error


# --- files ------------------------------------------------------------------------------------------------------


def _optional(file: Path) -> Mapping[str, Any]:
    return read_object(file) if file.is_file() else {}


def _read(file: Path) -> str | None:
    """The text of a template, None when there is no such file."""
    try:
        if not file.is_file():
            return None
        if file.stat().st_size > MAX_SOURCE_CHARS:
            raise InvalidModel(f"{file.name} is larger than {MAX_SOURCE_CHARS} bytes.")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModel(f"{file.name} cannot be read as text.") from error


def _digest(path: Path, template: JinjaTemplate | None) -> str:
    digest = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (path / name).is_file():
            digest.update((path / name).read_bytes())
        digest.update(b"\0")
    if template is not None:
        digest.update(f"{template.source}\0{template.tool_source}".encode("utf-8", "replace"))
    return digest.hexdigest()


# --- tokenizer --------------------------------------------------------------------------------------------------


def _tokenizer_source(files: _Files, specials: Mapping[str, str], template: JinjaTemplate | None) -> TokenizerSource:
    file = files.path / "tokenizer.json"
    add_bos = files.tokenizer.get("add_bos_token")
    content = "" if file.is_file() else _converted(files.path)
    if file.is_file() and file.stat().st_size > MAX_TOKENIZER_BYTES:
        raise InvalidModel(f"tokenizer.json is larger than {MAX_TOKENIZER_BYTES} bytes.")
    return TokenizerSource(
        path=None if content else file,
        content=content,
        eos_ids=_eos_ids(files),
        eos_token=specials.get("eos_token", ""),
        turn_ends=_last_markers(template),
        bos_token=specials.get("bos_token", ""),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
    )


def _converted(path: Path) -> str:
    """The tokenizer of a model without tokenizer.json, as transformers converts it. Its own code is never run."""
    if not any((path / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")):
        raise InvalidModel("tokenizer.json is missing.")
    try:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
        return str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # whatever the library makes of a foreign directory
        if points_at_code(_optional(path / "tokenizer_config.json")):
            raise UnsafeModel("tokenizer_config.json: auto_map points at code, which is never run.") from error
        raise InvalidModel("tokenizer.json is missing and the other tokenizer files cannot be converted.") from error


def _token(files: _Files, name: str) -> str:
    """A named token, written as text or as an object with its flags."""
    for place in (files.tokenizer, files.specials):
        value = place.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            return value
    return ""


def _eos_ids(files: _Files) -> frozenset[int]:
    """Every id that some file of the model says ends a turn."""
    places = (files.generation, files.config, _nested(files.config))
    return frozenset(number for place in places for number in _ids(place.get("eos_token_id")))


def _last_markers(template: JinjaTemplate | None) -> tuple[str, ...]:
    """What ends a turn made of messages. gpt-oss's own generation config names it, those of conversions may not."""
    try:
        format_ = message_format(detect(template.literals)) if template else None
    except TemplateFailed as error:
        raise InvalidModel(error.message) from error
    return format_.last if format_ else ()


def _ids(value: Any) -> Iterator[int]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int) and not isinstance(one, bool) and one >= 0:
            yield one


# --- template ---------------------------------------------------------------------------------------------------


def _template(files: _Files, specials: Mapping[str, str]) -> JinjaTemplate | None:
    """The chat template from where models keep it: chat_template.jinja, chat_template.json, tokenizer_config.json."""
    source = _read(files.path / "chat_template.jinja")
    tools = _read(files.path / TOOL_TEMPLATE) or ""
    if source is None:
        named = _optional(files.path / "chat_template.json").get("chat_template")
        source, tool_use = _named_templates(named if named is not None else files.tokenizer.get("chat_template"))
        tools = tools or tool_use
    if max(len(source or ""), len(tools)) > MAX_SOURCE_CHARS:
        raise InvalidModel(f"The chat template is longer than {MAX_SOURCE_CHARS} characters.")
    return JinjaTemplate(source, tools, specials) if source else None


def _named_templates(value: Any) -> tuple[str, str]:
    """The default template and the one for tools, from a text, a list of named templates or an object of them."""
    if isinstance(value, str):
        return value, ""
    if isinstance(value, list):
        value = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
    if isinstance(value, dict):
        texts = {name: text for name, text in value.items() if isinstance(text, str)}
        default = texts.get("default") or next(iter(texts.values()), "")
        return default, texts.get("tool_use", "")
    return "", ""


# --- numbers ----------------------------------------------------------------------------------------------------


def _nested(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else {}


def _context_tokens(files: _Files) -> int:
    """The positions the model was made for. Raises `InvalidModel` when no file says so."""
    places = (_nested(files.config), files.config)
    names = ("max_position_embeddings", "max_sequence_length", "seq_length", "n_positions", "n_ctx", "max_seq_len")
    found = [place.get(name) for place in places for name in names]
    found.append(files.tokenizer.get("model_max_length"))
    for value in found:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_CONTEXT_TOKENS:
            return int(value)
    raise InvalidModel("config.json does not say how many positions the model has (max_position_embeddings).")


def _generation_defaults(generation: Mapping[str, Any]) -> dict[str, float | int]:
    """Recommended sampling within sane ranges; `do_sample: false` means greedy."""
    found: dict[str, float | int] = {}
    for name, (low, high) in _DEFAULTS.items():
        value = generation.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            found[name] = value
    if generation.get("do_sample") is False:
        found["temperature"] = 0.0
    return found

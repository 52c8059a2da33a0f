"""A model's tokenizer twice over one vocabulary: once for what the template writes, once for what clients write.

Both share the same `tokenizers` model, so the second costs no memory. The one for client text does not know the
structural tokens: `<|im_start|>` typed by a user becomes the same characters in ordinary tokens.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from inference.engine.detokenizer import Pieces, StreamDetokenizer
from inference.engine.text_cache import TextCache
from inference.engine.tokenizer_vetting import model_is_plain, patterns_are_plain
from inference.errors import InvalidModel, RequestError
from inference.tokens import TokenIds

_NOT_A_MARKER = re.compile(r"[\w\s▁ĠĊĉ]*")
"""Added tokens of these characters only are vocabulary (words, runs of blanks), unless they are flagged special."""
_CACHE_BYTES = 64 << 20
_AHEAD_CHARS = 2 << 20
"""Of more than that the cache might have dropped the first before it is asked for them."""
_LONG_CHARS = 1024
"""From here on the library's way without offsets pays for its detour over other threads: a quarter less of 500 KB."""


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """What makes a tokenizer; travels between processes in its place. Either `path` or `content` holds tokenizer.json.

    `eos_ids` come from the model's configs, `eos_token` is the tokenizer's own, `turn_ends` are its template's; all
    of them end a turn.
    `add_bos` None: as the tokenizer's own post-processor does.
    """

    path: Path | None = None
    content: str = ""
    eos_ids: frozenset[int] = frozenset()
    eos_token: str = ""
    turn_ends: tuple[str, ...] = ()
    bos_token: str = ""
    add_bos: bool | None = None


class JsonTokenizer:
    """The port `Tokenizer` over a tokenizer.json. Thread-safe; pickled as its source, so it is read again there."""

    def __init__(self, source: TokenizerSource) -> None:
        """Raises `InvalidModel` when the file is no tokenizer."""
        self._source = source
        base = _read(source)
        states = [json.loads(part.__getstate__()) for part in (base.normalizer, base.pre_tokenizer) if part is not None]
        self._is_plain = patterns_are_plain(states) and model_is_plain(base)
        self._added = base.get_added_tokens_decoder()
        self._structural = frozenset(number for number, token in self._added.items() if is_structural(token))
        kept = {number: token for number, token in self._added.items() if number not in self._structural}
        self._template = _Encoder(base, self._added, prepends=False)
        self._field = self._raw = _Encoder(base, kept, prepends=False)
        self._opening: _Encoder | None = None
        if any(_without_prepend(state) != state for state in states):
            self._opening = _Encoder(base, self._added, prepends=True)
            self._raw = _Encoder(base, kept, prepends=True)
            self._first_marker = re.compile("|".join(map(re.escape, self.structural_texts)) or r"(?!)")
        self._size = max([base.get_vocab_size(with_added_tokens=False), *(number + 1 for number in self._added)])
        self._pieces = Pieces(base)
        self._bos_id = _bos_id(base, source)
        known = map(base.token_to_id, filter(None, (source.eos_token, *source.turn_ends)))
        self._eos_ids = source.eos_ids.union(one for one in known if one is not None)
        self._cache = TextCache(_CACHE_BYTES)

    def __reduce__(self) -> tuple[Callable[[TokenizerSource], JsonTokenizer], tuple[TokenizerSource]]:
        return (JsonTokenizer, (self._source,))

    @property
    def vocab_size(self) -> int:
        return self._size

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos_ids

    @property
    def is_plain(self) -> bool:
        """Whether what its patterns and its model cost is known by their form."""
        return self._is_plain

    @property
    def structural_ids(self) -> frozenset[int]:
        """Ids that client text never becomes: special tokens and markers such as `<think>`."""
        return self._structural

    @property
    def structural_texts(self) -> tuple[str, ...]:
        """Their texts, longest first."""
        texts = {self._added[number].content for number in self._structural}
        return tuple(sorted(texts, key=lambda text: (-len(text), text)))

    def encode_template(self, text: str) -> TokenIds:
        return self._cache.get(("template", text), lambda: self._encode_template(text))

    def encode_field(self, text: str) -> TokenIds:
        return self._cache.get(("field", text), lambda: self._without_markers(self._field, text))

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Tokenises long texts that will be asked for as fields, all at once: the library takes a core for each."""
        new = {text for text in texts if len(text) >= _LONG_CHARS and not self._cache.holds(("field", text))}
        if len(new) < 2 or sum(map(len, new)) > _AHEAD_CHARS:
            return
        for text, ids in self._field.ids_of_all(list(new)):
            if self._structural.isdisjoint(ids):
                self._cache.get(("field", text), lambda ids=ids: ids)  # type: ignore[misc]

    def spell(self, text: str) -> TokenIds:
        """As `encode_field`, and not remembered: for text that is asked for once."""
        return self._without_markers(self._field, text)

    def token_bytes(self, number: int) -> bytes:
        """What one id stands for in text: a marker's characters, b"" outside of the vocabulary."""
        return self._pieces.of(number)

    @property
    def spells_bytes(self) -> bool:
        """The text of ids is the bytes of each, one after the other; else it depends on their neighbours."""
        return self._pieces.are_bytes

    def encode_raw(self, text: str) -> TokenIds:
        bos = () if self._bos_id is None else (self._bos_id,)
        return bos + self._without_markers(self._raw, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out, markers that are not flagged special (`<think>`) are shown."""
        stream = self.detokenizer()
        return "".join([stream.push(number) for number in ids]) + stream.finish()

    def detokenizer(self, shown: frozenset[int] = frozenset()) -> StreamDetokenizer:
        """`shown` special ids appear in the text (for formats whose tool or channel markers are special tokens)."""
        return StreamDetokenizer(self._pieces, shown)

    def _encode_template(self, text: str) -> TokenIds:
        if self._opening is None:
            return self._template.ids(text)
        # SentencePiece puts its opening blank where a text begins and, in old models, behind each special token.
        marker = self._first_marker.search(text)
        cut = marker.start() if marker else len(text)
        return self._template.ids(text[:cut]) + self._opening.ids(text[cut:])

    def _without_markers(self, encoder: _Encoder, text: str) -> TokenIds:
        ids = encoder.ids(text)
        if self._structural.isdisjoint(ids):
            return ids
        # The vocabulary itself can hold a marker that merges lead to: cut the text inside each and try again.
        cuts = [0, *encoder.middles(text, self._structural), len(text)]
        if len(cuts) == 2:
            return tuple(number for number in ids if number not in self._structural)
        parts = [text[start:stop] for start, stop in pairwise(cuts)]
        head = self._without_markers(encoder, parts[0])
        return head + tuple(number for part in parts[1:] for number in self._without_markers(self._field, part))


class _Encoder:
    """One way to read text: the shared model with a choice of added tokens, with or without an opening blank."""

    def __init__(self, base: Backend, added: dict[int, AddedToken], *, prepends: bool) -> None:
        backend = Backend(base.model)
        backend.normalizer = base.normalizer if prepends else _edited(base.normalizer)
        backend.pre_tokenizer = base.pre_tokenizer if prepends else _edited(base.pre_tokenizer)
        backend.add_tokens([added[number] for number in sorted(added)])
        ids = {token.content: number for number, token in added.items()}
        made = backend.get_added_tokens_decoder()
        # Added alone, tokens get new numbers: they are put back to those the model was trained with.
        self._numbers = {at: ids[one.content] for at, one in made.items() if ids[one.content] != at}
        self._backend = backend

    def ids(self, text: str) -> TokenIds:
        if not text:
            return ()
        return self._numbered(self._encode(text, offsets=False).ids)

    def ids_of_all(self, texts: list[str]) -> Iterator[tuple[str, TokenIds]]:
        """As `ids`, of texts that can be encoded as they are; () of none where one cannot."""
        try:
            with _without_panic():
                found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            return
        for text, encoding in zip(texts, found, strict=True):
            yield text, self._numbered(encoding.ids)

    def middles(self, text: str, wanted: frozenset[int]) -> list[int]:
        """Where to cut so that none of the tokens in `wanted` stays whole: the middle character of each."""
        encoding = self._encode(text)
        spans = [
            span
            for number, span in zip(self._numbered(encoding.ids), encoding.offsets, strict=True)
            if number in wanted
        ]
        return sorted({(start + stop) // 2 for start, stop in spans if stop - start > 1})

    def _encode(self, text: str, *, offsets: bool = True) -> Any:
        def encode(text: str) -> Any:
            if len(text) < _LONG_CHARS:
                return self._backend.encode(text, add_special_tokens=False)
            # Only the ways for many texts let go of the interpreter: 9 s for 4 MB were held in one piece.
            many = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
            return many([text], add_special_tokens=False)[0]

        with _without_panic():
            try:
                return encode(text)
            except (TypeError, UnicodeEncodeError):
                return encode(_without_surrogates(text))

    def _numbered(self, ids: list[int]) -> TokenIds:
        return tuple([self._numbers.get(one, one) for one in ids]) if self._numbers else tuple(ids)


def is_structural(token: AddedToken) -> bool:
    """A token that gives text its structure: flagged special, or made of more than letters, digits and blanks."""
    return len(token.content) > 1 and (token.special or not _NOT_A_MARKER.fullmatch(token.content))


def _read(source: TokenizerSource) -> Backend:
    try:
        with _without_panic():
            backend = Backend.from_file(str(source.path)) if source.path else Backend.from_str(source.content)
    except Exception as error:  # the library raises a bare Exception
        raise InvalidModel("tokenizer.json cannot be read as a tokenizer.") from error
    # Some files carry the limits of their training; a prompt is never cut or filled up.
    backend.no_truncation()
    backend.no_padding()
    return backend


@contextmanager
def _without_panic() -> Iterator[None]:
    """A panic of the library is no `Exception` in Python and would pass by all that answers requests."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ == "pyo3_runtime":
            raise RequestError("The model's tokenizer gives up on this text.") from error
        raise


def _bos_id(base: Backend, source: TokenizerSource) -> int | None:
    """The id a raw text begins with, None when this model's texts begin with themselves."""
    if source.add_bos is False:
        return None
    named = base.token_to_id(source.bos_token) if source.bos_token else None
    if source.add_bos and named is not None:
        return int(named)
    plain = base.encode("a", add_special_tokens=False).ids
    processed = base.encode("a", add_special_tokens=True).ids
    opens = len(processed) > len(plain) and processed[0] != plain[0]
    return int(processed[0]) if opens and named in (None, processed[0]) else None


def _without_surrogates(text: str) -> str:
    """Text with lone surrogates, which no encoding can express, as U+FFFD; pairs become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- opening blanks ---------------------------------------------------------------------------------------------


def _edited(component: Any) -> Any:
    """A normalizer or pre-tokenizer that puts nothing before a text."""
    if component is None:
        return None
    state = json.loads(component.__getstate__())
    changed = _without_prepend(state)
    if changed == state:
        return component
    if changed is None:
        return None
    edited = copy.copy(component)
    edited.__setstate__(json.dumps(changed).encode())
    return edited


def _without_prepend(state: dict[str, Any]) -> dict[str, Any] | None:
    match state:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return {**state, "prepend_scheme": "never"} | (
                {"add_prefix_space": False} if "add_prefix_space" in state else {}
            )
        case {"type": "ByteLevel"}:
            return {**state, "add_prefix_space": False}
        case {"type": "Sequence"}:
            key = "normalizers" if "normalizers" in state else "pretokenizers"
            return {**state, key: _kept(map(_without_prepend, state[key]))}
        case _:
            return state


def _kept(states: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [state for state in states if state is not None]

"""The two readings of text (template's and client's), and ids back to text."""

from __future__ import annotations

import json
import pickle
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from inference.engine.tokenizer import _LONG_CHARS, JsonTokenizer, TextCache, TokenizerSource
from inference.errors import InvalidModel
from tests.tokenizers_in_code import MARKERS, SPECIAL, WORDS, byte_level, merged_markers, sentence, tokenizer

KINDS = ("bytes", "merged", "sentence", "legacy")
BYTE_KINDS = ("bytes", "merged")

characters = st.one_of(st.characters(codec="utf-8"), st.sampled_from("<>|/[]_ \n\té漢🙂́‍"))
hostile = st.lists(
    st.one_of(st.sampled_from(SPECIAL + MARKERS + WORDS), st.text(characters, max_size=8)), max_size=12
).map("".join)


@st.composite
def cut_and_doubled(draw: st.DrawFn) -> str:
    """Markers nested into each other, so that removing or splitting one could make another."""
    outer, inner = draw(st.sampled_from(SPECIAL + MARKERS)), draw(st.sampled_from(SPECIAL + MARKERS))
    at = draw(st.integers(0, len(outer)))
    return draw(hostile) + outer[:at] + inner + outer[at:] + draw(hostile)


texts = st.one_of(hostile, cut_and_doubled(), st.text(characters))


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_client_text_never_becomes_a_structural_id(kind: str, text: str) -> None:
    own = tokenizer(kind)
    assert own.structural_ids.isdisjoint(own.encode_field(text))


@pytest.mark.parametrize("kind", BYTE_KINDS)
@given(text=texts)
def test_client_text_comes_back_whole(kind: str, text: str) -> None:
    own = tokenizer(kind)
    assert own.decode(own.encode_field(text)) == text


@given(text=texts)
def test_sentencepiece_text_comes_back_but_for_its_first_blank(text: str) -> None:
    own = tokenizer("sentence")
    decoded = own.decode(own.encode_field("x" + text))
    assert decoded == ("x" + text).replace("▁", " ")


def test_the_merges_of_a_vocabulary_cannot_spell_a_marker() -> None:
    own = tokenizer("merged")
    without_protection = Backend.from_str(merged_markers())
    assert set(without_protection.encode("<s>", add_special_tokens=False).ids) & own.structural_ids
    assert own.structural_ids.isdisjoint(own.encode_field("<s><s>" * 5000 + "<<s>s><|end|>"))


def test_markers_are_recognised_in_template_text_flagged_special_or_not() -> None:
    own = tokenizer()
    for text in SPECIAL + MARKERS:
        (number,) = own.encode_template(text)
        assert number in own.structural_ids


def test_added_words_and_runs_of_blanks_stay_tokens_with_their_own_ids() -> None:
    own, backend = tokenizer(), Backend.from_str(byte_level())
    for text in WORDS:
        number = backend.token_to_id(text)
        assert number not in own.structural_ids
        assert own.encode_field(f"a{text}b").count(number) == 1
        assert own.encode_template(f"a{text}b").count(number) == 1


def test_text_in_the_middle_gets_no_opening_blank() -> None:
    own = tokenizer("sentence")
    assert own.decode(own.encode_template("<s>") + own.encode_field("dog") + own.encode_field("s")) == "dogs"
    assert own.encode_field("dog") != own.encode_raw("dog")[1:]


@pytest.mark.parametrize("kind", ("sentence", "legacy"))
def test_template_text_with_markers_reads_as_the_whole_file_would(kind: str) -> None:
    own = tokenizer(kind)
    backend = Backend.from_str(sentence("legacy" if kind == "legacy" else "first"))
    for text in ("<s>[INST] the dog[/INST]", "<s>the dog</s><s>reads"):
        assert list(own.encode_template(text)) == backend.encode(text, add_special_tokens=False).ids


def test_raw_text_begins_as_the_model_wants_and_never_twice() -> None:
    own = tokenizer()
    bos = own.encode_template("<s>")[0]
    assert own.encode_raw("the dog") == (bos, *own.encode_field("the dog"))
    assert own.encode_raw("<s>the dog").count(bos) == 1
    without = JsonTokenizer(TokenizerSource(content=byte_level(), bos_token="<s>", add_bos=False))
    assert bos not in without.encode_raw("the dog")


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts.filter(bool))
def test_long_text_is_read_as_the_library_reads_it(kind: str, text: str) -> None:
    encoder = tokenizer(kind)._field
    long = text * (1 + _LONG_CHARS // len(text))
    assert encoder.ids(long) == encoder._numbered(encoder._encode(long).ids)


@cache
def another(kind: str) -> JsonTokenizer:
    """One that has read nothing yet."""
    made: JsonTokenizer = pickle.loads(pickle.dumps(tokenizer(kind)))
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(drawn=st.lists(texts.filter(bool), max_size=4))
def test_reading_ahead_changes_no_ids(kind: str, drawn: list[str]) -> None:
    long = [text * (1 + _LONG_CHARS // len(text)) for text in [*drawn, "<s>", "a\ud800b"]]
    ahead, plain = another(kind), tokenizer(kind)
    ahead._cache = TextCache(1 << 20)
    ahead.read_ahead([*long, "short"])
    assert [ahead.encode_field(text) for text in long] == [plain.encode_field(text) for text in long]


def test_what_is_read_ahead_is_not_read_again() -> None:
    own = pickle.loads(pickle.dumps(tokenizer()))
    long = ["the dog " * _LONG_CHARS, "the fox " * _LONG_CHARS]
    own.read_ahead(long)
    own._field = None
    assert all(own.encode_field(text) for text in long)


def test_lone_surrogates_are_no_error() -> None:
    own = tokenizer()
    assert own.decode(own.encode_field("a\ud800b")) == "a�b"
    assert own.decode(own.encode_field("a\ud800b" * _LONG_CHARS)) == "a�b" * _LONG_CHARS
    assert own.decode(own.encode_raw("\ud83d\ude42")) == "🙂"


def test_a_file_with_limits_of_training_does_not_cut_prompts() -> None:
    backend = Backend.from_str(byte_level())
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    own = JsonTokenizer(TokenizerSource(content=backend.to_str()))
    assert own.encode_field("the dog reads a file " * 9) == tokenizer().encode_field("the dog reads a file " * 9)


def test_a_broken_file_is_named() -> None:
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        JsonTokenizer(TokenizerSource(content=json.dumps({"version": "1.0"})))


def test_tokenizers_travel_between_processes() -> None:
    own = tokenizer()
    there = pickle.loads(pickle.dumps(own))
    assert there.encode_field("the <|im_end|> dog") == own.encode_field("the <|im_end|> dog")
    assert there.eos_ids == own.eos_ids == {own.encode_template("<|im_end|>")[0]}


def test_the_cache_stays_within_its_bytes() -> None:
    cache = TextCache(10_000)
    for number in range(1000):
        cache.get(("field", f"text {number}"), lambda: (1, 2, 3))
    assert 0 < cache.nbytes <= 10_000
    assert cache.get(("field", "text 999"), lambda: (9,)) == (1, 2, 3)
    assert cache.get(("field", "text 0"), lambda: (9,)) == (9,)
    assert cache.get(("template", "text 999"), lambda: (8,)) == (8,)


# --- ids to text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_pieces_add_up_and_hold_no_half_character(kind: str, data: st.DataObject) -> None:
    own = tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, own.vocab_size - 1), max_size=40))
    stream = own.detokenizer()
    pieces = [stream.push(number) for number in ids] + [stream.finish()]
    assert "".join(pieces) == own.decode(ids)
    assert not any("\ud800" <= character <= "\udfff" for piece in pieces for character in piece)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(characters))
def test_a_character_is_shown_once_it_is_whole(kind: str, text: str) -> None:
    own = tokenizer(kind)
    stream = own.detokenizer()
    shown = "".join(stream.push(number) for number in own.encode_field("a" + text))
    assert shown == ("a" + text if kind in BYTE_KINDS else ("a" + text).replace("▁", " "))
    assert stream.finish() == ""


@pytest.mark.parametrize("kind", BYTE_KINDS)
@given(data=st.data())
def test_decode_agrees_with_the_library(kind: str, data: st.DataObject) -> None:
    """The oracle is the library's own decoder; added tokens are left out, which it reads through the byte table."""
    own = tokenizer(kind)
    backend = Backend.from_str(byte_level() if kind == "bytes" else merged_markers())
    size = backend.get_vocab_size(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    ids = data.draw(st.lists(st.integers(0, size - 1).filter(lambda one: one not in added), max_size=40))
    assert own.decode(ids) == backend.decode(ids, skip_special_tokens=True)


def test_special_tokens_are_silent_and_other_markers_are_shown() -> None:
    own = tokenizer()
    ids = own.encode_template("<|im_start|>a<think>b</think><|im_end|>")
    assert own.decode(ids) == "a<think>b</think>"
    shown = own.detokenizer(frozenset(own.encode_template("<|im_end|>")))
    assert "".join(map(shown.push, ids)) == "a<think>b</think><|im_end|>"


def test_an_id_outside_the_vocabulary_is_silent() -> None:
    assert tokenizer().decode([10**6]) == ""


def test_a_broken_character_at_the_end_is_one_replacement() -> None:
    own = tokenizer()
    euro = own.encode_field("€")
    assert len(euro) > 1
    assert own.decode(euro[:-1]) == "�"
    assert own.decode([*euro[:-1], *own.encode_field("a")]) == "�a"

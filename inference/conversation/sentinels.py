"""Stand-ins for client text in the one template render, and the way back from the rendered text to the fields.

A template sees `Qz<nonce>x000012s"'éQz<nonce>e` where a client wrote text. The three characters in the middle show
what was done to the field on its way: JSON puts backslashes before the quote, `ensure_ascii` spells the é, Python's
`repr` escapes the apostrophe; the case of `Qz` tells `upper` and `lower`. The same is then done to the real text.
Client text never passes through the template, so it can neither change the template's decisions nor be taken for
something the template wrote.

Whitespace at both ends of a field stays around its sentinel, because templates trim. What survived of it is taken
back into the field.
"""

from __future__ import annotations

import html
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product

from inference.tokens import TokenIds

Escape = Callable[[str], str]

_MARK = "Qz"
_PROBE = "\"'é"
_CASES: dict[str, Escape] = {"QZ": str.upper, "qz": str.lower}
_INERT = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text with its source: the place in the request body and the message number.

    Text without a path was written by this server; message -1 is no message (tools, system hints).
    """

    text: str
    path: str = ""
    message: int = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of rendered text. `source` None: the template wrote it. `ids`: these stand there in place of the text."""

    text: str
    source: Text | None = None
    ids: TokenIds | None = None


@dataclass(frozen=True, slots=True)
class Expanded:
    """What a render became. `seen` are the numbers of the fields that survived, `unknown_escapes` the fields whose
    escaping was not understood (their text was put in as it is), `python_repr` that a value was printed as Python."""

    pieces: tuple[Piece, ...]
    seen: frozenset[int]
    unknown_escapes: int = 0
    python_repr: bool = False


@dataclass(frozen=True, slots=True)
class _Field:
    source: Text
    lead: str
    trail: str
    required: bool


@dataclass(frozen=True, slots=True)
class Markers:
    """How literal names could take part in a structural marker of this model and template.

    `tails`: what would complete a marker that some literal of the template leaves open, e.g. a template that writes
    `<|` before a name. `first_characters`: of markers that begin like an identifier.
    """

    tails: frozenset[str] = frozenset()
    first_characters: frozenset[str] = frozenset()

    @classmethod
    def of(cls, structural: Iterable[str], literals: str) -> Markers:
        """`literals` holds the template's own texts, separated by NUL."""
        endings = {one[-size:] for one in literals.split("\0") for size in range(1, min(len(one), 64) + 1)}
        markers = [marker for marker in structural if marker]
        tails = {m[at:] for m in markers for at in range(1, len(m)) if m[:at] in endings}
        return cls(frozenset(tails), frozenset(m[0] for m in markers if _INERT.fullmatch(m[0])))

    def is_inert(self, name: str) -> bool:
        """An identifier that can neither be nor hold nor complete a structural marker."""
        return (
            bool(_INERT.fullmatch(name))
            and self.first_characters.isdisjoint(name)
            and not any(tail.startswith(name) for tail in self.tails)
        )


@dataclass(slots=True)
class Sentinels:
    """Hands out sentinels for one render. No text in `avoid` holds the nonce. `counts` notes what was re-worded."""

    markers: Markers = field(default_factory=Markers)
    counts: Counter[str] = field(default_factory=Counter)
    avoid: Sequence[str] = ()
    nonce: str = ""
    fields: list[_Field] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        while not self.nonce or any(self.nonce in text for text in self.avoid):
            self.nonce = f"{secrets.randbelow(10**16):016d}"

    def text(self, texts: Sequence[Text], *, required: bool = True) -> str:
        """The template-facing value of texts that stand one after the other. Empty and blank stay what they are."""
        filled = [number for number, one in enumerate(texts) if one.text.strip()]
        if not filled:
            return "".join(one.text for one in texts)
        first, last = filled[0], filled[-1]
        before = "".join(one.text for one in texts[:first])
        after = "".join(one.text for one in texts[last + 1 :])
        middle = [
            self._add(one, number == first, number == last, required)
            for number, one in enumerate(texts[first : last + 1], first)
            if one.text
        ]
        return before + "".join(middle) + after

    def one(self, text: Text, *, required: bool = True) -> str:
        return self.text((text,), required=required)

    def name(self, name: Text) -> str:
        """A name that templates compare and look up: literal while it is inert, else always the same sentinel."""
        if self.markers.is_inert(name.text) or not name.text.strip():
            return name.text
        if name.text not in self._names:
            self._names[name.text] = self._add(name, False, False, required=False)
        return self._names[name.text]

    @property
    def required(self) -> frozenset[int]:
        """Numbers of the fields that must survive, or the model is not told what the client said."""
        return frozenset(number for number, one in enumerate(self.fields) if one.required)

    def expand(self, rendered: str) -> Expanded:
        """The rendered text with every field back in its place."""
        return _expand(rendered, self.nonce, self.fields)

    def _add(self, source: Text, open_left: bool, open_right: bool, required: bool) -> str:
        text = source.text
        lead = text[: len(text) - len(text.lstrip())] if open_left else ""
        trail = text[len(text.rstrip()) :] if open_right else ""
        core = Text(text[len(lead) : len(text) - len(trail)], source.path, source.message)
        self.fields.append(_Field(core, lead, trail, required))
        return f"{lead}Qz{self.nonce}x{len(self.fields) - 1:06d}s{_PROBE}Qz{self.nonce}e{trail}"


def _expand(rendered: str, nonce: str, fields: Sequence[_Field]) -> Expanded:
    pieces: list[Piece] = []
    seen: set[int] = set()
    forms: set[str] = set()
    unknown = cursor = 0
    for match in _sentinels(rendered, nonce):
        number, form = int(match[2]), match[3].lower()
        found = fields[number]
        unknown += form not in _ESCAPES
        write = _ESCAPES.get(form, _same)
        if match[1] in _CASES:
            write = _in_turn((write, _CASES[match[1]]))
        head = rendered[cursor : match.start()]
        lead = _shared_end(head, found.lead, write) if found.lead else ""
        cursor, trail = _shared_start(rendered, match.end(), found.trail, write)
        if len(head) > len(lead):
            pieces.append(Piece(head[: len(head) - len(lead)]))
        pieces.append(Piece(lead + write(found.source.text) + trail, found.source))
        seen.add(number)
        forms.add(form)
    if cursor < len(rendered):
        pieces.append(Piece(rendered[cursor:]))
    return Expanded(tuple(pieces), frozenset(seen), unknown, not forms.isdisjoint(_REPR_FORMS))


def _sentinels(rendered: str, nonce: str) -> Iterator[re.Match[str]]:
    """Where sentinels stand, one after the other. The nonce is looked for, which has no case: a pattern that may begin
    with a letter in any case is tried at each character, 6 ms for the tools and 500 KB conversation of an agent."""
    sentinel = re.compile(rf"(qz){nonce}x(\d{{6,}})s(.{{0,64}}?)qz{nonce}e", re.DOTALL | re.IGNORECASE)
    at = rendered.find(nonce)
    while at >= 0:
        match = sentinel.match(rendered, max(0, at - len(_MARK)))
        if match is not None:
            yield match
        at = rendered.find(nonce, match.end() if match is not None else at + 1)


def _shared_end(head: str, lead: str, write: Escape) -> str:
    """The part of `lead` that still stands at the end of `head`, as it was written there."""
    kept = 0
    for character in reversed(lead):
        written = write(character)
        if not head.endswith(written, 0, len(head) - kept):
            break
        kept += len(written)
    return head[len(head) - kept :]


def _shared_start(rendered: str, start: int, trail: str, write: Escape) -> tuple[int, str]:
    """Where the part of `trail` that still stands at `start` ends, and that part."""
    at = start
    for character in trail:
        written = write(character)
        if not rendered.startswith(written, at):
            break
        at += len(written)
    return at, rendered[start:at]


def _same(text: str) -> str:
    return text


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json_ascii(text: str) -> str:
    return json.dumps(text)[1:-1]


def _python(text: str) -> str:
    # Both kinds of quotes make repr choose the form that the sentinel, which holds both, was written in.
    return repr(text + "\"'")[1:-4]


def _html(text: str) -> str:
    return html.escape(text, quote=True).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _in_turn(escapes: Sequence[Escape]) -> Escape:
    return lambda text: reduce(lambda done, escape: escape(done), escapes, text)


def _escape_table() -> tuple[dict[str, Escape], frozenset[str]]:
    """What the probe looks like after up to three escapes, one inside the other."""
    table: dict[str, Escape] = {}
    in_python: set[str] = set()
    for depth in range(4):
        for chain in product((_json, _json_ascii, _python, _html), repeat=depth):
            form = _in_turn(chain)(_PROBE)
            if form not in table:
                table[form] = _in_turn(chain)
                in_python |= {form} if _python in chain else set()
    return table, frozenset(in_python)


_ESCAPES, _REPR_FORMS = _escape_table()

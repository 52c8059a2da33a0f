"""Puts an answer on the screen: thinking dimmed, nothing a model writes can drive the terminal, speed measured."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from mlxd.cli.chat_stream import Piece, Usage

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
OPEN, CLOSE = "<think>", "</think>"
DIM, PLAIN = "\x1b[2m", "\x1b[22m"


def strip_controls(text: str) -> str:
    """`text` without control characters, except line feeds and tabs: a model's answer is not to be trusted."""
    return CONTROLS.sub("", text)


@dataclass(slots=True)
class ThinkSplitter:
    """Splits literal `<think>` blocks off the content of servers that leave them in; tags may come in pieces."""

    thinking: bool = False
    held: str = ""

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain now; the start of a possible tag is held back."""
        pieces, text = [], self.held + text
        while True:
            tag = CLOSE if self.thinking else OPEN
            before, found, after = text.partition(tag)
            if not found:
                keep = _held_chars(text, tag)
                pieces.append(self._piece(text[: len(text) - keep]))
                self.held = text[len(text) - keep :]
                return [piece for piece in pieces if piece.text]
            pieces.append(self._piece(before))
            self.thinking, text = not self.thinking, after

    def finish(self) -> list[Piece]:
        """What was held back and turned out to be text."""
        rest, self.held = self.held, ""
        return [self._piece(rest)] if rest else []

    def _piece(self, text: str) -> Piece:
        return Piece("reasoning" if self.thinking else "content", text)


def _held_chars(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the start of `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)


@dataclass(slots=True)
class Answer:
    """One answer as it came: its text without thinking, and how long it took. Times in seconds."""

    content: str = ""
    first_s: float | None = None
    total_s: float = 0.0
    pieces: int = 0
    usage: Usage | None = None

    def summary(self) -> str:
        """Latency and speed, with `~` where the server reported no token counts."""
        first = f"{self.first_s:.2f} s to the first token" if self.first_s is not None else "no tokens"
        tokens = self.usage.completion_tokens if self.usage else self.pieces
        about = "" if self.usage else "~"
        decode_s = self.total_s - (self.first_s or 0.0)
        speed = f" · {about}{(tokens - 1) / decode_s:.1f} tok/s" if tokens > 1 and decode_s > 0 else ""
        prompt = ""
        if self.usage:
            cached = f", {self.usage.cached_tokens} cached" if self.usage.cached_tokens else ""
            prompt = f" for {self.usage.prompt_tokens} of prompt{cached}"
        return f"{first}{speed} · {about}{tokens} tokens{prompt} · {self.total_s:.2f} s"


@dataclass(slots=True)
class Screen:
    """Where answers are written. Without colour, thinking is marked by lines of its own."""

    out: TextIO
    colour: bool
    show_thinking: bool
    clock: Callable[[], float] = time.monotonic
    _style: str = field(default="content")
    _at_line_start: bool = True

    def show(self, parts: Iterable[Piece | Usage], answer: Answer) -> None:
        """Writes an answer while it arrives and records it in `answer`, which is right at every moment."""
        began, splitter = self.clock(), ThinkSplitter()
        try:
            for part in parts:
                answer.total_s = self.clock() - began
                if isinstance(part, Usage):
                    answer.usage = part
                    continue
                if answer.first_s is None:
                    answer.first_s = answer.total_s
                answer.pieces += part.kind != "note"
                self._show_all(splitter.push(part.text) if part.kind == "content" else [part], answer)
            self._show_all(splitter.finish(), answer)
        finally:
            answer.total_s = self.clock() - began
            self._switch("content")
            if not self._at_line_start:
                self._write("\n")
            self.out.flush()

    def _show_all(self, pieces: Iterable[Piece], answer: Answer) -> None:
        for piece in pieces:
            if piece.kind == "content":
                answer.content += piece.text
            self._show(piece)
        self.out.flush()

    def _show(self, piece: Piece) -> None:
        if piece.kind == "note":
            self._switch("content")
            self._write(f"{'' if self._at_line_start else '\n'}[{strip_controls(piece.text)}]\n")
        elif piece.kind == "content" or self.show_thinking:
            self._switch(piece.kind)
            self._write(strip_controls(piece.text))

    def _switch(self, style: str) -> None:
        if style == self._style:
            return
        self._style = style
        if not self._at_line_start:
            self._write("\n")
        if self.colour:
            self.out.write(DIM if style == "reasoning" else PLAIN)
        elif style == "reasoning":
            self._write("[thinking]\n")
        else:
            self._write("[answer]\n")

    def _write(self, text: str) -> None:
        if text:
            self.out.write(text)
            self._at_line_start = text.endswith("\n")


def wants_colour(out: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Colour on a terminal that has it, unless NO_COLOR is set."""
    return out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

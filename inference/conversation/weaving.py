"""Puts the text of a message together from its runs: spans as they are read, and back in their place those that the
client has dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from inference.conversation.lineage_memory import SeenSpan
from inference.conversation.spans import Fragment
from inference.conversation.volatile import Kind, Unit, VolatileRule
from inference.messages import TextPart

RETAINED = "mlxd.retained"
"""The path of text that the client does not send any more."""

Rules = Mapping[str, VolatileRule]
"""By name."""


@dataclass(frozen=True, slots=True)
class Run:
    """Text to be read, of part `part` of the request's message; None: a part of its own."""

    text: str
    path: str
    part: int | None


def woven(
    runs: Sequence[tuple[Fragment, SeenSpan | None]], missing: Iterable[SeenSpan], rules: Rules
) -> tuple[list[Run], tuple[SeenSpan, ...]]:
    """The runs with spans as they are read, and those that are missing put back where they were."""
    left = sorted(missing, key=lambda one: one.at)
    texts: list[Run] = []
    spans: list[SeenSpan] = []

    def back(limit: float, beside: Fragment | None) -> None:
        while left and left[0].at <= limit:
            old = left.pop(0)
            apart = beside is None or rules[old.rule].scope.unit is Unit.PART
            texts.append(Run(old.text, RETAINED, None) if apart or beside is None else _of(beside, old.text))
            spans.append(replace(old, current=None) if rules[old.rule].kind is not Kind.IDENTIFIER else old)

    for run, one in runs:
        back(run.at, run)
        if run.span is not None:
            texts += [_of(run, one.text)] if one is not None else []
            spans += [one] if one is not None else []
            continue
        at = 0
        while left and left[0].at < run.at + len(run.text):
            cut = left[0].at - run.at
            texts.append(_of(run, run.text[at:cut]))
            back(left[0].at, run)
            at = cut
        texts.append(_of(run, run.text[at:]))
    back(float("inf"), runs[-1][0] if runs else None)
    return texts, tuple(spans)


def _of(run: Fragment, text: str) -> Run:
    return Run(text, run.path, run.part)


def joined(texts: Iterable[Run]) -> tuple[TextPart, ...]:
    """Runs of one part are one part again: what is tokenised together once is tokenised together always."""
    joined: list[list[Run]] = []
    for run in texts:
        if not run.text:
            continue
        if joined and run.part is not None and run.part == joined[-1][0].part:
            joined[-1].append(run)
        else:
            joined.append([run])
    return tuple(TextPart("".join(run.text for run in runs), runs[0].path) for runs in joined)

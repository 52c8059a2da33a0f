"""Every request that is not over, for whoever wants to see or to end one. No text, only sizes and times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from inference.scheduler.request import Ticket
from inference.scheduler.view import RowView


class Stage(StrEnum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class RequestView:
    """`client` is its key in the fair queue. Tokens are those of all its answers, `done_tokens` those of the prompt."""

    id: str
    model: str
    client: str
    stage: Stage
    prompt_tokens: int
    done_tokens: int
    completion_tokens: int
    max_tokens: int
    answers: int
    queue_s: float
    running_s: float


def request_views(tickets: Iterable[Ticket], rows: Iterable[RowView], now_s: float) -> tuple[RequestView, ...]:
    """Tickets in the order in which they came, with what the worker last told of their rows.

    A ticket without rows waits: the worker has not shown it in one yet. Of two requests with one id, which is the
    client's fault, each is told the rows of both.
    """
    by_id: dict[str, list[RowView]] = {}
    for row in rows:
        by_id.setdefault(row.id, []).append(row)
    ordered = sorted(tickets, key=lambda ticket: ticket.number)
    return tuple(_view(one, by_id.get(one.request.id, []), now_s) for one in ordered if not one.mailbox.closed)


def _view(ticket: Ticket, rows: list[RowView], now_s: float) -> RequestView:
    done = max((row.done_tokens for row in rows), default=0)
    completion_tokens = sum(row.completion_tokens for row in rows)
    begun = Stage.DECODE if completion_tokens else Stage.PREFILL
    return RequestView(
        id=ticket.request.id,
        model=ticket.request.model.id,
        client=ticket.request.client,
        stage=begun if rows else Stage.WAITING,
        prompt_tokens=ticket.prompt_tokens,
        done_tokens=done,
        completion_tokens=completion_tokens,
        max_tokens=ticket.max_tokens,
        answers=ticket.choices,
        queue_s=rows[0].queue_s if rows else now_s - ticket.submitted_s,
        running_s=max((row.running_s for row in rows), default=0.0),
    )

"""What the scheduler may be told. The service's configuration fills this in; the defaults are the service's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Limits and times of the scheduler.

    `max_batch` rows run at once over all models, `max_models` are resident. Waiting: `max_queue` requests in all,
    `max_queue_per_client` of one named client, each at most `queue_deadline_s`. `generation_deadline_s` ends an answer
    with `length` that long after its row began (None: never). The watchdog acts after `watchdog_s` without progress,
    ten times the slowest step, or `load_floor_s` during a model load, whichever is longest. `reserve_tokens` of an
    answer are reserved in memory at a time. A failed model is not tried again for `load_retry_s`. After `tidy_after_s`
    without work, freed memory is given back to the system. A reader that lets
    more than `mailbox_chars` or `mailbox_events` pile up is cut off.
    """

    max_batch: int = 8
    max_models: int = 2
    max_queue: int = 64
    max_queue_per_client: int = 8
    queue_deadline_s: float = 300.0
    generation_deadline_s: float | None = None
    watchdog_s: float = 60.0
    load_floor_s: float = 300.0
    tick_s: float = 0.25
    publish_s: float = 0.1
    reserve_tokens: int = 4096
    tidy_after_s: float = 10.0
    load_retry_s: float = 30.0
    mailbox_chars: int = 256 * 1024
    mailbox_events: int = 4096

"""One GPU worker thread owns models and KV; here is who it works for, in which order, and what if it cannot."""

from inference.scheduler.open_requests import RequestView, Stage
from inference.scheduler.pool import Ended, HeldBack, Leave, MemoryNotReturned, ModelInUse, PoolRules, Receipt
from inference.scheduler.request import Generation, Request, Thinking
from inference.scheduler.scheduler import Scheduler
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.transcript import Spoken
from inference.scheduler.view import Counters, ModelState, ModelView, RowView, SchedulerView

__all__ = [
    "Counters",
    "Ended",
    "Generation",
    "HeldBack",
    "Leave",
    "MemoryNotReturned",
    "ModelInUse",
    "ModelState",
    "ModelView",
    "PoolRules",
    "Receipt",
    "Request",
    "RequestView",
    "RowView",
    "Scheduler",
    "SchedulerSettings",
    "SchedulerView",
    "Spoken",
    "Stage",
    "Thinking",
]

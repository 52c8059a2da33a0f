"""One GPU worker thread owns models and KV; here is who it works for, in which order, and what if it cannot."""

from inference.scheduler.request import Generation, Request, Thinking
from inference.scheduler.scheduler import Scheduler
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.transcript import Spoken
from inference.scheduler.view import Counters, ModelState, ModelView, RowView, SchedulerView

__all__ = [
    "Counters",
    "Generation",
    "ModelState",
    "ModelView",
    "Request",
    "RowView",
    "Scheduler",
    "SchedulerSettings",
    "SchedulerView",
    "Spoken",
    "Thinking",
]

"""Audits under a scheduler: in idle moments behind work, one short step at a time, and out of everybody's way."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from inference.engine.scripted import Script
from inference.errors import EngineFatal
from inference.events import Failed
from inference.prefix_store import AuditResult
from inference.scheduler import Scheduler
from tests.scripted import events, final_of, request, scheduled, until

RESULT = AuditResult("scripted", ("disk",), 600, 599, 0, 16, None, 1e-6, 1e-7, 1e-3, False, None, 0, 0.5)
SOON_S = 0.05
"""The worker's idle moments are as short as that."""


@dataclass
class Steps:
    """Audits of `length` steps of `step_s` each, `cases` of them, each tried again when it was given up."""

    length: int
    cases: int = 1
    step_s: float = 0.0
    fault: Exception | None = None
    log: list[str] = field(default_factory=list)
    at: int = 0

    @property
    def waits(self) -> bool:
        return self.cases > 0

    def step(self, room_bytes: int | None) -> AuditResult | None:
        time.sleep(self.step_s)
        self.log.append("step")
        if self.fault is not None:
            fault, self.fault, self.cases = self.fault, None, 0
            raise fault
        self.at += 1
        if self.at < self.length:
            return None
        self.at, self.cases = 0, self.cases - 1
        return replace(RESULT, prompt_tokens=room_bytes or 0)

    def abandon(self) -> None:
        self.log.append("abandon")
        self.at = 0


def audited(script: Script, told: list[AuditResult]) -> Any:
    return scheduled(script, scheduler={"on_audit": told.append}, tidy_after_s=SOON_S)


async def asked(scheduler: Scheduler) -> None:
    assert not isinstance(final_of(await events(scheduler.submit(request()))), Failed)


async def test_what_waits_is_done_when_nothing_else_is_and_told() -> None:
    told: list[AuditResult] = []
    steps = Steps(20, cases=2)
    with audited(Script(auditor=steps), told) as scheduler:
        await asked(scheduler)
        await until(lambda: len(told) == 2)
        assert not steps.waits and "abandon" not in steps.log


async def test_a_request_waits_for_one_step_at_most() -> None:
    """The log has the names of jobs between the steps, and `asked` behind each request."""
    told: list[AuditResult] = []
    steps = Steps(1_000_000, step_s=0.005)
    with audited(Script(auditor=steps, started=steps.log), told) as scheduler:
        await asked(scheduler)
        for _ in range(3):
            await until(lambda: steps.at > 2)
            before = len(steps.log)
            generation = scheduler.submit(request())
            steps.log.append("asked")
            assert not isinstance(final_of(await events(generation)), Failed)
            since = steps.log[before:]
            begun = next(at for at, entry in enumerate(since) if entry not in ("step", "abandon", "asked"))
            assert since[begun - 1] == "abandon" or since[begun - 2 : begun] == ["abandon", "asked"]
            assert "asked" not in since[:begun] or since[since.index("asked") : begun].count("step") <= 1
    assert told == []


async def test_a_question_does_not_end_an_audit() -> None:
    told: list[AuditResult] = []
    steps = Steps(60, step_s=0.001)
    with audited(Script(auditor=steps), told) as scheduler:
        await asked(scheduler)
        await until(lambda: steps.at > 2)
        while not told:
            assert await asyncio.wrap_future(scheduler.store(lambda store: store.held_bytes)) is None
        assert "abandon" not in steps.log


@pytest.mark.parametrize("failing", [True, False])
async def test_a_fault_of_an_audit_or_of_its_listener_ends_nobody(failing: bool) -> None:
    steps = Steps(3, fault=EngineFatal("scripted: the device is gone") if failing else None)

    def listener(_result: AuditResult) -> None:
        raise RuntimeError("the disk is full")

    with scheduled(Script(auditor=steps), scheduler={"on_audit": listener}, tidy_after_s=SOON_S) as scheduler:
        await asked(scheduler)
        await until(lambda: not steps.waits)
        await asked(scheduler)
        assert scheduler.alive and scheduler.snapshot().counters.engine_rebuilds == failing

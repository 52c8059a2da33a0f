"""The last door before the GPU: what the engine could not bear is refused, and what a job is given of a request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from inference.engine.scripted import EOS
from inference.errors import InvalidParameter
from inference.params import GenerationParams, KVQuantisation, SamplingParams, StopConditions
from inference.ports import Guide, Job, ModelLimits, ThoughtSpan
from inference.scheduler.checks import check_params, check_vocabulary
from inference.scheduler.choices import Choices
from inference.scheduler.mailbox import Doorbell, Mailbox
from inference.scheduler.request import Request, Ticket
from tests.scripted import request

LIMITS = ModelLimits(context_tokens=1000, vocab_size=257, weights_bytes=1000, kv_bytes_per_token=10)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("min_tokens", (0, 1, 5000), (-1, 2**40)),
        ("n", (1, 8), (0, -1, 9)),
        ("top_logprobs", (None, 0, 20), (-1, 21)),
        ("thinking_budget_tokens", (None, 0, 10**6), (-1, 2**40)),
    ],
)
def test_counts_have_ranges(field: str, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    for value in good:
        check_params(replace(GenerationParams(), **{field: value}))
    for value in bad:
        with pytest.raises(InvalidParameter) as caught:
            check_params(replace(GenerationParams(), **{field: value}))
        assert caught.value.param == field


@pytest.mark.parametrize("bias", [nan, inf, -inf, 1e5])
def test_a_bias_is_a_number_of_sane_size(bias: float) -> None:
    check_params(GenerationParams(SamplingParams(logit_bias=((1, 100.0), (2, -100.0)))))
    with pytest.raises(InvalidParameter):
        check_params(GenerationParams(SamplingParams(logit_bias=((1, 0.0), (2, bias)))))


@pytest.mark.parametrize("token", [-1, 257, 10**12])
def test_a_bias_is_for_an_id_of_the_model(token: int) -> None:
    wanted = replace(request(), params=GenerationParams(SamplingParams(logit_bias=((256, 1.0),))))
    check_vocabulary(wanted, LIMITS)
    bad = replace(wanted, params=GenerationParams(SamplingParams(logit_bias=((1, 1.0), (token, 1.0)))))
    with pytest.raises(InvalidParameter) as caught:
        check_vocabulary(bad, LIMITS)
    assert caught.value.param == "logit_bias"


def job_of(wanted: Request) -> Job:
    loop = asyncio.new_event_loop()
    ticket = Ticket(wanted, 1, 10, 0.0, Mailbox(Doorbell(loop), lambda: None))
    loop.close()
    return Choices(ticket, 0.0, 100).rows[0].job


def test_a_job_is_given_everything_that_steers_it() -> None:
    kv, guide = KVQuantisation(8), Guide(thought=ThoughtSpan((1,), (2,), budget_tokens=3))
    params = GenerationParams(
        SamplingParams(logit_bias=((5, 1.0),)), StopConditions(token_ids=(7,)), min_tokens=4, top_logprobs=2, kv=kv
    )
    job = job_of(replace(request(), params=params, guide=guide))
    assert (job.sampling, job.min_tokens, job.top_logprobs) == (params.sampling, 4, 2)
    assert (job.guide, job.kv) == (guide, kv)
    assert (job.stop_ids, job.banned_ids) == ({EOS, 7}, frozenset())


def test_ignoring_eos_bans_the_models_ends_and_keeps_the_requests_own() -> None:
    params = GenerationParams(stop=StopConditions(token_ids=(7,)), ignore_eos=True)
    job = job_of(replace(request(), params=params))
    assert (job.stop_ids, job.banned_ids) == ({7}, {EOS})
    asked = replace(params, stop=StopConditions(token_ids=(7, EOS)))
    job = job_of(replace(request(), params=asked))
    assert (job.stop_ids, job.banned_ids) == ({7, EOS}, frozenset())

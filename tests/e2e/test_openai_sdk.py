"""The official SDK against a real daemon with a tiny real model."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.e2e.daemon import ServedDaemon

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something."}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 24}


def test_streamed_equals_folded(client: openai.OpenAI) -> None:
    folded = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    chunks = list(
        client.chat.completions.create(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY)
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert text == folded.choices[0].message.content
    assert text
    assert reasons == [folded.choices[0].finish_reason]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert folded.usage and chunks[-1].usage
    but = {"tokens_per_second", "prompt_tokens_details"}  # time, and what the first request left in the cache
    assert chunks[-1].usage.model_dump(exclude=but) == folded.usage.model_dump(exclude=but)


def test_usage_is_complete(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert reply.usage
    usage = reply.usage.model_dump()
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 24
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert usage["tokens_per_second"] > 0


def test_the_limit_ends_with_length(client: openai.OpenAI) -> None:
    for limit in ({"max_tokens": 1}, {"max_completion_tokens": 1}):
        reply = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, **limit)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage and reply.usage.completion_tokens == 1


def test_a_stop_string_cuts_the_answer_before_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content
    assert whole and len(whole) > 8
    stop = whole[4:7]
    for stream in (False, True):
        reply: Any = client.chat.completions.create(messages=MESSAGES, stop=[stop], stream=stream, **GREEDY)
        text = "".join(c.choices[0].delta.content or "" for c in reply) if stream else reply.choices[0].message.content
        assert text == whole[: whole.index(stop)]


def test_a_seed_repeats_and_another_does_not(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str | None:
        reply = client.chat.completions.create(
            model="tiny", messages=MESSAGES, temperature=1.0, seed=seed, max_tokens=24
        )
        return reply.choices[0].message.content

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(1, 6)}) > 1


def test_many_at_once_answer_as_each_alone(daemon: ServedDaemon) -> None:
    import asyncio

    async def ask(sdk: openai.AsyncOpenAI, number: int) -> str:
        stream = await sdk.chat.completions.create(
            messages=[{"role": "user", "content": f"Number {number}. " * (1 + number * 7)}], stream=True, **GREEDY
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def both() -> tuple[list[str], list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as sdk:
            alone = [await ask(sdk, number) for number in range(12)]
            together = await asyncio.gather(*(ask(sdk, number) for number in range(12)))
        return alone, list(together)

    alone, together = asyncio.run(both())
    assert together == alone
    assert len(set(alone)) > 6, "answers that do not depend on the prompt would prove nothing"


def test_legacy_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="tiny", prompt="Once", max_tokens=8, temperature=0)
    streamed = client.completions.create(model="tiny", prompt="Once", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == reply.choices[0].text
    echoed = client.completions.create(model="tiny", prompt="Once", max_tokens=8, temperature=0, echo=True)
    assert echoed.choices[0].text == "Once" + reply.choices[0].text


def test_models(client: openai.OpenAI) -> None:
    first, second = client.models.list(), client.models.list()
    assert [model.id for model in first] == ["tiny"]
    assert first.data[0].created == second.data[0].created == client.models.retrieve("tiny").created
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize("name", ["current-model", "gpt-4o", "openai/tiny", "default"])
def test_a_placeholder_means_the_model_that_is_there(client: openai.OpenAI, name: str) -> None:
    reply = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=2)
    assert reply.model == "tiny"


def test_what_agents_add_is_ignored(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        messages=MESSAGES, extra_body={"service_tier": "auto", "reasoning": {"x": 1}, "unheard_of": [1]}, **GREEDY
    )
    assert reply.choices[0].message.content


def test_what_is_ignored_does_not_count_as_prompt(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=MESSAGES, extra_body={"unheard_of": "x" * 3_000_000}, **GREEDY)
    assert reply.usage and reply.usage.prompt_tokens < 100


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", None),
        ({"messages": MESSAGES, "temperature": 9}, "temperature", None),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens", None),
        (
            {"messages": MESSAGES, "extra_body": {"guided_grammar": 'root ::= "a"'}},
            "guided_grammar",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            None,
            "model_has_no_vision",
        ),
        ({"messages": [{"role": "user", "content": "word " * 400_000}]}, "messages", "context_length_exceeded"),
    ],
    ids=["no messages", "temperature", "max_tokens", "guided_grammar", "image", "too long"],
)
def test_refusals_are_the_sdk_s_own_errors(
    client: openai.OpenAI, body: dict[str, Any], param: str | None, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="tiny", **body)
    error = refusal.value
    assert error.type == "invalid_request_error"
    assert code is None or error.code == code
    assert param is None or (error.param or "").startswith(param)


def test_the_status_page_shows_the_model(daemon: ServedDaemon) -> None:
    assert httpx.get(daemon.url + "/", timeout=60).headers["location"] == "/login"
    browser = daemon.browser()
    page = httpx.get(daemon.url + "/", headers=browser, timeout=60)
    part = httpx.get(daemon.url + "/?part=figures", headers=browser, timeout=60)
    assert page.status_code == 200
    assert "tiny" in page.text
    assert "ready" in page.text
    assert "<script>" not in page.text and "default-src" in page.headers["content-security-policy"]
    assert "tiny" in part.text and "<html" not in part.text
    for static in ("status.css", "status.js", "login.css", "login.js", "icon.svg"):
        assert httpx.get(f"{daemon.url}/static/dashboard/{static}", timeout=60).status_code == 200


def test_health(daemon: ServedDaemon) -> None:
    live = httpx.get(f"{daemon.url}/health/live", timeout=60)
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert httpx.get(f"{daemon.url}/health/ready", timeout=60).status_code == 200
    assert httpx.get(f"{daemon.url}/health", timeout=60).status_code == 200


def test_the_admin_door_is_shut_without_the_token(daemon: ServedDaemon) -> None:
    token = (daemon.state_dir / "admin.token").read_text().strip()
    assert httpx.get(f"{daemon.url}/api/status", timeout=60).status_code == 401
    assert (
        httpx.get(f"{daemon.url}/api/status", headers={"Authorization": "Bearer nonsense"}, timeout=60).status_code
        == 401
    )
    answer = httpx.get(f"{daemon.url}/api/status", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert answer.status_code == 200
    assert (daemon.state_dir / "admin.token").stat().st_mode & 0o777 == 0o600

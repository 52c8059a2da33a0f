"""Telemetry in prompts, from the body of a request to its answer's headers and its line in the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxd import access_log
from mlxd.api import policy
from mlxd.config import Config
from tests.drift import billing, git_system
from tests.integration.api_scripted import StandIn, chat, post

CHAT = "/v1/chat/completions"
HEADER = "x-mlxd-volatile"
SENT = [{"role": "system", "content": f"{billing('39c')}\nYou are."}, {"role": "user", "content": "Hi"}]


def read(stand_in: StandIn) -> list[str]:
    """What the model is to read of the last request."""
    return [message.text for message in stand_in.asked[-1]["conversation"].messages]


@pytest.mark.parametrize("stream", [False, True])
async def test_telemetry_is_left_out_and_the_answer_says_so(stand_in: StandIn, stream: bool) -> None:
    answer = await post(CHAT, chat(messages=SENT, stream=stream))
    assert answer.status == 200
    assert read(stand_in) == ["You are.", "Hi"]
    assert answer.headers[HEADER] == "omit; omitted=1"


async def test_a_request_may_ask_for_every_word(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat(messages=SENT), headers={"X-Mlxd-Volatile": "Verbatim"})
    assert read(stand_in) == [SENT[0]["content"], "Hi"]
    assert answer.headers[HEADER] == "verbatim"


async def test_a_server_may_be_told_to_leave_nothing_out(stand_in: StandIn, tmp_path: Path) -> None:
    policy.install(policy.Policy.of(Config(state_dir=tmp_path, volatile="verbatim"), "token"))
    assert (await post(CHAT, chat(messages=SENT))).headers[HEADER] == "verbatim"
    assert read(stand_in)[0] == SENT[0]["content"]
    omitting = await post(CHAT, chat(messages=SENT), headers={"X-Mlxd-Volatile": "omit"})
    assert omitting.headers[HEADER] == "omit; omitted=1"


async def test_a_prompt_without_telemetry_is_read_as_it_is(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat())
    assert answer.headers[HEADER] == "omit"
    assert read(stand_in) == [message["content"] for message in chat()["messages"]]


async def test_a_word_that_is_no_policy_is_refused(stand_in: StandIn) -> None:
    answer = await post(CHAT, chat(), headers={"X-Mlxd-Volatile": "hide"})
    assert answer.status == 400
    assert "omit, verbatim" in answer.body.decode()
    assert not stand_in.asked


async def test_a_completion_has_no_messages_to_search(stand_in: StandIn) -> None:
    answer = await post("/v1/completions", {"model": "tiny", "prompt": SENT[0]["content"]})
    assert stand_in.asked[-1]["raw_prompt"] == SENT[0]["content"]
    assert HEADER not in answer.headers


async def test_the_line_in_the_log_counts_and_quotes_nothing(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, object]] = []
    monkeypatch.setattr(access_log, "log_request", lambda **facts: written.append(facts))
    await post(CHAT, chat(messages=SENT))
    status = "\n".join(f" M orchard/row_{number:03d}/tree_with_a_long_name.py" for number in range(80))
    await post(CHAT, chat(messages=[{"role": "system", "content": git_system(status).text}, SENT[1]]))
    assert [line.get("omitted_spans") for line in written] == [1, None]
    assert [line.get("refused_rules") for line in written] == [None, "git_status"]
    assert "39c" not in str(written)

"""Drifting prompts, from the body of a request to its answer's headers and its line in the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd import runtime
from mlxd.api import policy
from mlxd.config import Config
from mlxd.log import log_request
from mlxd.start_errors import InvalidSetting
from tests.drift import billing, channel_message, dated_system, git_system
from tests.integration.api_scripted import Answer, chat, post
from tests.integration.spoken_runtime import CALL, Model, served
from tests.tokenizers_in_code import text_model

CHAT = "/v1/chat/completions"
HEADER = "x-mlxd-volatile"
SENT = [{"role": "system", "content": f"{billing('39c')}\nYou are."}, {"role": "user", "content": "Hi"}]
TOKEN = "admin"
TOOLS = [{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}]


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model(text_model("chatml"))
    with served(made.scheduler, made.text, Path("tiny")) as running:
        runtime.install(running)
        policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
        yield made
        runtime.install(None)
        policy.install(policy.Policy())


def read(model: Model) -> str:
    """What the model was last given to read."""
    return model.text.tokenizer.decode(model.read)


@pytest.mark.parametrize("stream", [False, True])
async def test_telemetry_is_left_out_and_the_answer_says_so(model: Model, stream: bool) -> None:
    answer = await post(CHAT, chat(messages=SENT, stream=stream))
    assert answer.status == 200
    assert "billing" not in read(model) and "You are." in read(model)
    assert answer.headers[HEADER] == "bind; omitted=1"


async def test_a_request_may_ask_for_every_word(model: Model) -> None:
    answer = await post(CHAT, chat(messages=SENT), headers={"X-Mlxd-Volatile": "Verbatim"})
    assert SENT[0]["content"] in read(model)
    assert answer.headers[HEADER] == "verbatim"


@pytest.mark.parametrize(
    ("settings", "asked", "used"),
    [
        ({"volatile": "verbatim"}, "", "verbatim"),
        ({"volatile": "verbatim"}, "omit", "omit; omitted=1"),
        ({"volatile_models": ("tiny=verbatim",)}, "", "verbatim"),
        ({"volatile_models": ("tiny=verbatim",)}, "bind", "bind; omitted=1"),
        ({"volatile_models": ("other=verbatim",)}, "", "bind; omitted=1"),
        ({"volatile": "omit", "volatile_models": ("a=b=verbatim",)}, "", "omit; omitted=1"),
        ({"volatile_models": ("tiny=bind+rebind:current_time",)}, "", "bind+rebind:current_time; omitted=1"),
        ({"keep_tools": True}, "", "bind+keep:tools; omitted=1"),
        ({"keep_tools": True, "volatile": "omit"}, "", "omit; omitted=1"),
        ({"keep_tools": True}, "bind", "bind; omitted=1"),
        (
            {"volatile_models": ("tiny=bind+keep:tools+relocate:git_status",)},
            "",
            "bind+relocate:git_status+keep:tools; omitted=1",
        ),
        ({}, "bind+relocate:git_status+rebind:git_status", "bind+rebind:git_status+relocate:git_status; omitted=1"),
    ],
)
async def test_the_request_decides_then_its_model_then_the_server(
    model: Model, tmp_path: Path, settings: dict[str, Any], asked: str, used: str
) -> None:
    policy.install(policy.Policy.of(Config(state_dir=tmp_path, **settings), TOKEN))
    assert (await post(CHAT, chat(messages=SENT), headers={"X-Mlxd-Volatile": asked})).headers[HEADER] == used
    assert ("billing" in read(model)) == used.startswith("verbatim")


@pytest.mark.parametrize("setting", ["verbatim", "tiny=", "=omit", "tiny=hide", "tiny=bind+rebind:cch"])
def test_a_setting_that_names_no_model_or_no_policy_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(InvalidSetting, match="ID=POLICY"):
        policy.Policy.of(Config(state_dir=tmp_path, volatile_models=(setting,)), TOKEN)


async def test_a_prompt_that_does_not_drift_is_read_as_it_is(model: Model) -> None:
    answer = await post(CHAT, chat())
    assert answer.headers[HEADER] == "bind"
    assert chat()["messages"][0]["content"] in read(model)


@pytest.mark.parametrize(
    "wish",
    [
        "hide",
        "bind+",
        "bind+keep",
        "omit+keep:tools",
        "bind+rebind",
        "bind+hide:git_status",
        "bind+relocate:cch",
        "omit+relocate:git_status",
    ],
)
async def test_a_word_that_is_no_policy_is_refused(model: Model, wish: str) -> None:
    answer = await post(CHAT, chat(messages=SENT), headers={"X-Mlxd-Volatile": wish})
    assert answer.status == 400
    assert "bind, omit, verbatim" in answer.body.decode()
    assert not model.jobs


async def test_a_completion_has_no_messages_to_search(model: Model) -> None:
    answer = await post("/v1/completions", {"model": "tiny", "prompt": SENT[0]["content"]})
    assert read(model) == SENT[0]["content"]
    assert HEADER not in answer.headers


async def test_the_line_in_the_log_counts_and_quotes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, object]] = []

    def noted(**facts: Any) -> None:
        written.append(facts)
        log_request(**facts)

    monkeypatch.setattr("mlxd.access_log.log_request", noted)
    await post(CHAT, chat(messages=SENT))
    status = "\n".join(f" M orchard/row_{number:03d}/tree_with_a_long_name.py" for number in range(80))
    await post(CHAT, chat(messages=[{"role": "system", "content": git_system(status).text}, SENT[1]]))
    assert [line.get("omitted_spans") for line in written] == [1, None]
    assert [line.get("refused_rules") for line in written] == [None, "git_status"]
    assert "39c" not in str(written)


# --- a conversation ---------------------------------------------------------------------------------------------


async def in_two_turns(model: Model, **headers: str) -> tuple[dict[str, Any], Answer]:
    """The second request of an agent whose date and message id drift, and its answer."""
    model.says = CALL

    def body(day: str, message_id: str, *more: dict[str, Any]) -> dict[str, Any]:
        first = channel_message(message_id, "What is in a?").text
        head = [{"role": "system", "content": dated_system(day).text}, {"role": "user", "content": first}]
        return chat(messages=[*head, *more], tools=TOOLS)

    said = (await post(CHAT, body("2026-11-21", "m1"), headers=headers)).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "alpha"}
    model.says = "Done."
    again = body("2026-11-22", "m2", said, result)
    return again, await post(CHAT, again, headers=headers)


async def test_what_was_read_stays_and_a_change_is_told_once(model: Model) -> None:
    _, answer = await in_two_turns(model)
    first, second = (model.text.tokenizer.decode(job.prompt.ids) for job in model.jobs)
    assert second.startswith(first.removesuffix("<|im_start|>assistant\n"))
    assert answer.headers[HEADER] == "bind; pinned=1; restated=1"
    assert second.count("2026-11-22") == 1 and "m2" not in second
    assert second.rindex("2026-11-22") > second.index("alpha")


async def test_a_rule_may_be_relocated_for_one_request(model: Model) -> None:
    head = git_system("(clean)").text + "\n\n" + "Prune in winter. " * 99
    wish = {"X-Mlxd-Volatile": "bind+relocate:git_status"}
    answer = await post(CHAT, chat(messages=[{"role": "system", "content": head}, SENT[1]]), headers=wish)
    assert answer.headers[HEADER] == "bind+relocate:git_status; relocated=1"
    assert read(model).index("(clean)") > read(model).index("Prune in winter.")


async def test_verbatim_reads_the_new_values_where_they_stand(model: Model) -> None:
    _, answer = await in_two_turns(model, **{"X-Mlxd-Volatile": "verbatim"})
    assert answer.headers[HEADER] == "verbatim"
    assert "2026-11-21" not in read(model) and "m2" in read(model)

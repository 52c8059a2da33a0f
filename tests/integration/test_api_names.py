"""What models are called, to whom, and orders whose client goes away: through the real application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import Script, ScriptedLoader
from inference.errors import ModelNotFound
from inference.prefix_store import SavedConversation
from inference.scheduler import Scheduler, SchedulerSettings
from mlxd import runtime
from mlxd.api import conv_kv, policy
from mlxd.config import BY_NAME, Config
from mlxd.config.load import LoadedConfig, Origin
from mlxd.keys import access
from mlxd.keys.access import Access, Caller
from mlxd.keys.key import make_key
from mlxd.live_settings import LiveSettings
from mlxd.model_settings import ModelSettings
from mlxd.runtime import Runtime
from mlxd.served import served_models
from tests.integration.api_scripted import Answer, Call, get, post
from tests.scripted import ByteTokenizer, until

TOKEN = "mlxd_admin_" + "t" * 43
ADMIN = {"authorization": f"Bearer {TOKEN}"}


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"12345678")
    return folder


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """Serves `a` and `b`; `c` lies below a model root."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    make_model(tmp_path / "root" / "c")
    config = Config(state_dir=tmp_path, model_roots=(str(tmp_path / "root"),), max_models=3)
    live = LiveSettings(LoadedConfig(config, dict.fromkeys(BY_NAME, Origin.DEFAULT)), tmp_path / "settings.json")
    made = Runtime(
        served_models([(name, make_model(tmp_path / name)) for name in "ab"]),
        Scheduler(lambda: ScriptedLoader(Script(decode_s=0.002)), SchedulerSettings(max_batch=2, tick_s=0.02)),
        Preparer(),
        lambda _path: TextModel(ByteTokenizer(), None, context_tokens=100_000),
        strict_models=True,
        settings=live,
    )
    made.apply_rules()
    made.scheduler.start()
    runtime.install(made)
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    access.install(Access())
    yield made
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())
    made.close()


async def set_model(name: str, **own: Any) -> Answer:
    call = Call("PUT", f"/api/settings/models/{name}", json.dumps(own).encode(), headers=ADMIN)
    return await call.start().result()


async def set_all(**changes: Any) -> Answer:
    return await post("/api/settings", changes, headers=ADMIN)


@pytest.mark.parametrize("taken", ["b", "org/b", "quick"])
async def test_an_alias_is_a_name_of_no_other_model(running: Runtime, taken: str) -> None:
    assert (await set_model("b", aliases=["quick"])).status == 200
    before = running.models
    refused = await set_all(model_aliases=[f"{taken}=a"], temperature=0.5)
    assert refused.status == 400 and refused.refusal["param"] == "model_aliases"
    assert (await set_model("a", aliases=[taken])).refusal["code"] == "alias_taken"
    assert running.models == before and "temperature" not in policy.current().sampling
    assert (await set_all(model_aliases=["swift=a", "swift=b"])).status == 400
    assert (await set_all(model_aliases=["swift=a", "quick=b"])).status == 200, "its own alias, said twice"
    assert [model.settings.aliases for model in running.models] == [("swift",), ("quick",)]


async def test_a_name_is_listed_once(running: Runtime) -> None:
    assert (await set_model("a", aliases=["quick", "a"])).status == 200
    assert [model["id"] for model in (await get("/v1/models")).json()["data"]] == ["a", "quick", "b"]


async def test_a_model_that_would_take_a_name_is_not_loaded(running: Runtime) -> None:
    running.settings.change_model("c", ModelSettings(aliases=("a",)))
    for order in ({"model_id": "c"}, {"model_id": "c", "name": "b"}):
        refused = await post("/api/models/load", order, headers=ADMIN)
        assert refused.status == 409 and refused.refusal["code"] in ("alias_taken", "model_id_taken")
    assert [model.id for model in running.models] == ["a", "b"]


async def test_a_flag_that_names_a_model_which_is_not_there_stops_no_other_change(running: Runtime) -> None:
    named = replace(running.settings.config, model_aliases=("quick=later",), pinned_models=("later",))
    running.settings = LiveSettings(LoadedConfig(named, dict.fromkeys(BY_NAME, Origin.FLAG)))
    assert (await set_all(top_k=3)).status == 200
    assert (await set_all(top_k=4, pinned_models=["later"])).refusal["param"] == "pinned_models"


async def test_a_key_for_some_models_cannot_tell_which_others_there_are(running: Runtime) -> None:
    secret, key = make_key("alice", lambda _: False, models=["a"])
    await access.current().keyring.add(key)

    async def asked(name: str) -> tuple[int, str]:
        answer = await post("/v1/completions", {"model": name, "prompt": "Once"}, headers={"x-api-key": secret})
        listed = await get(f"/v1/models/{name}", headers={"x-api-key": secret})
        assert listed.status == answer.status and listed.refusal["message"] == answer.refusal["message"]
        return answer.status, answer.refusal["message"].replace(name, "NAME")

    assert await asked("b") == await asked("nobody") and (await asked("b"))[0] == 404


async def test_no_saved_conversation_tells_a_key_of_other_models(running: Runtime) -> None:
    _, key = make_key("alice", lambda _: False, models=["a"])
    saved = SavedConversation("0" * 32, key.id, "c", "", "b", "", 1, 1, 1, 0.0)
    words = set()
    for wanted in ("b", "nobody"):
        with pytest.raises(ModelNotFound) as refused:
            await conv_kv._check_model(saved, wanted, Caller(client=key.id, key=key))
        words.add(refused.value.message.replace(wanted, "NAME"))
    assert len(words) == 1
    with pytest.raises(ModelNotFound):
        await conv_kv._check_model(saved, None, Caller(client=key.id, key=key))


async def test_all_models_leave_though_the_client_does_not_wait(running: Runtime) -> None:
    for name in "ab":
        assert (await post("/api/models/load", {"model_id": name}, headers=ADMIN)).status == 200
    body = {"model": "a", "prompt": "Once", "max_tokens": 20_000, "stream": True}
    stream = Call("POST", "/v1/completions", json.dumps(body).encode()).start()
    await until(lambda: running.scheduler.snapshot().running and stream.answer.bodies)
    order = Call("POST", "/api/models/unload", b'{"drain": true}', headers=ADMIN).start()
    await until(lambda: any(model.state == "draining" for model in running.scheduler.snapshot().models))
    order.disconnect()
    await order.result()
    assert running.scheduler.snapshot().model("b") is not None, "it has not come to the second yet"
    stream.disconnect()
    await stream.result()
    await until(lambda: not running.scheduler.snapshot().models)

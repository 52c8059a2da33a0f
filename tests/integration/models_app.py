"""The real application over a scripted engine with models that come and go, and the admin who orders it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import Script, ScriptedLoader
from inference.scheduler import Scheduler, SchedulerSettings
from mlxd.config import BY_NAME, Config
from mlxd.config.load import LoadedConfig, Origin
from mlxd.live_settings import LiveSettings
from mlxd.runtime import Runtime
from mlxd.served import served_models
from tests.integration.api_scripted import Answer, Call, get, post
from tests.integration.installed import ADMIN, installed
from tests.scripted import ByteTokenizer


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"12345678")
    return folder


@contextmanager
def serving_models(tmp_path: Path, script: Script) -> Iterator[Runtime]:
    """Serves `a`; `b` and `org/c` lie below a model root, `outside` does not."""
    for name in ("served/a", "root/b", "root/org/c", "outside"):
        make_model(tmp_path / name)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    config = Config(state_dir=tmp_path, model_roots=(str(tmp_path / "root"),), max_models=2)
    live = LiveSettings(LoadedConfig(config, dict.fromkeys(BY_NAME, Origin.DEFAULT)), tmp_path / "settings.json")
    scheduler = Scheduler(lambda: ScriptedLoader(script), SchedulerSettings(max_batch=2, tick_s=0.02))
    models = served_models([("a", tmp_path / "served" / "a")])
    reader = lambda _path: TextModel(ByteTokenizer(), None, context_tokens=100_000)  # noqa: E731
    made = Runtime(models, scheduler, Preparer(), reader, strict_models=True, settings=live)
    made.apply_rules()
    scheduler.start()
    with pytest.MonkeyPatch.context() as patch, installed(made):
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield made


async def told(path: str) -> Any:
    answer = await get(path, headers=ADMIN if path.startswith("/api") else {})
    assert answer.status == 200, answer.body
    return answer.json()


async def ordered(path: str, body: Any = None, status: int = 200) -> Any:
    """An order as JSON, or in the query string alone."""
    path, _, query = path.partition("?")
    call = Call("POST", path, b"" if body is None else json.dumps(body).encode(), headers=ADMIN)
    call.scope["query_string"] = query.encode()
    answer = await call.start().result()
    assert answer.status == status, answer.body
    return answer.json()


async def complete(model: str, **fields: Any) -> Answer:
    return await post("/v1/completions", {"model": model, "prompt": "Once", "max_tokens": 4, **fields})

"""Requests that real clients sent, where a folder of recordings is at hand; nothing of them is kept in the project.

The folder is named by `MLXD_TEST_TRAFFIC`. Its files are `CLIENT/RUN.jsonl`, one request a line with `path` and `body`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("MLXD_TEST_TRAFFIC") or Path(__file__).parents[2] / "shared" / "traffic")


def chat_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """(`client/run/number`, body) of every chat-completions request."""
    for file in sorted(FOLDER.glob("*/*.jsonl")):
        if file.name.endswith(".responses.jsonl"):
            continue
        for line in file.read_text().splitlines():
            request = json.loads(line)
            if request["method"] == "POST" and request["path"].partition("?")[0] == "/v1/chat/completions":
                yield f"{file.parent.name}/{file.stem}/{request['seq']}", request["body"]


REQUESTS = list(chat_requests()) if FOLDER.is_dir() else []
needs_recordings = pytest.mark.skipif(not REQUESTS, reason="no recorded traffic: name its folder in MLXD_TEST_TRAFFIC")


def has_image(body: dict[str, Any]) -> bool:
    contents = [message.get("content") for message in body["messages"]]
    return any(part["type"] == "image_url" for content in contents if isinstance(content, list) for part in content)

"""Where the memory is: an account of every byte the device holds, and of what nobody can explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from inference.prefix_store import StoreTotals
from inference.scheduler import ModelView, SchedulerView


@dataclass(frozen=True, slots=True)
class Account:
    """Bytes of the device. `active` is the sum of what follows; `unexplained` is what is left of it.

    Weights and rows are those of loaded models, `blocks` and `snapshots` what is stored of prefixes.
    """

    active: int
    weights: int
    rows: int
    blocks: int
    snapshots: int
    unexplained: int


def account(view: SchedulerView) -> Account | None:
    """The account at the worker's last look; None before its first."""
    if view.memory is None:
        return None
    active = view.memory.active_bytes
    weights = sum(model.limits.weights_bytes for model in view.models if model.limits is not None)
    rows = sum(model.kv_bytes for model in view.models)
    blocks, snapshots = _stored(view.store)
    return Account(active, weights, rows, blocks, snapshots, active - weights - rows - blocks - snapshots)


def statement(
    view: SchedulerView,
    footprint_bytes: int,
    disk: Mapping[str, Any] | None,
    sessions: Iterable[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """As JSON values, bytes throughout. None stands for what could not be asked in time.

    `outside_bytes` is what the process holds beside the device's buffers: interpreter, libraries, tokenizers, text of
    conversations. It means little where buffers are not part of the footprint (CUDA).
    """
    memory, told = view.memory, account(view)
    return {
        "limit_bytes": memory.limit_bytes if memory else 0,
        "peak_bytes": memory.peak_bytes if memory else 0,
        "buffer_pool_bytes": memory.cache_bytes if memory else 0,
        "reserved_bytes": view.reserved_bytes,
        "pressure": view.pressure,
        "account": None if told is None else {f"{name}_bytes": count for name, count in asdict(told).items()},
        "models": [_model(model) for model in view.models if model.limits is not None],
        "store": None
        if view.store is None
        else {"held_bytes": view.store.held_bytes, "room_bytes": view.store.room_bytes},
        "sessions": None if sessions is None else list(sessions),
        "ssd": None if disk is None else dict(disk),
        "process": {
            "footprint_bytes": footprint_bytes,
            "outside_bytes": footprint_bytes - (memory.active_bytes + memory.cache_bytes if memory else 0),
        },
    }


def _stored(store: StoreTotals | None) -> tuple[int, int]:
    return (0, 0) if store is None else (store.block_bytes + store.side_bytes, store.snapshot_bytes)


def _model(model: ModelView) -> dict[str, Any]:
    weights_bytes = model.limits.weights_bytes if model.limits is not None else 0
    return {"id": model.id, "weights_bytes": weights_bytes, "rows": model.rows, "rows_bytes": model.kv_bytes}

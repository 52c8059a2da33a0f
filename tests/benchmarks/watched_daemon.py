"""`mlxd` as it is, with a window: on SIGUSR1 it writes how many asyncio tasks it has to the file `TASKS_FILE`."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

import mlxd.cli
import mlxd.daemon

_begin = mlxd.daemon.Daemon.begin


def count_tasks() -> None:
    gc.collect()  # what is only waiting for the collector is no leak, and RSS is read after this
    place = Path(os.environ["TASKS_FILE"])
    written = place.with_suffix(".new")
    written.write_text(str(len(asyncio.all_tasks(asyncio.get_running_loop()))))
    written.replace(place)


def begin(daemon: mlxd.daemon.Daemon) -> None:
    _begin(daemon)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, count_tasks)


def main() -> None:
    mlxd.daemon.Daemon.begin = begin  # type: ignore[method-assign,assignment]
    mlxd.cli.main()


if __name__ == "__main__":
    main()

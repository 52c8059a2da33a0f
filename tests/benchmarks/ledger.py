"""What the ledger costs: the wait for the disk before an answer ends, and placing a large request in the lineage."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.benchmarks.figure import Figure, at_most, report

TURNS = 300
BARRIER_P95_MS = 5.0
PAUSE_S = 0.01
STREAMS = 8
ROUNDS = 3
ANSWER_IDS = 1000
COMMIT_BYTES = 96 * 1024
"""Two dozen pages: five rows and their indexes, an answer of a thousand ids, and what was read of 200 messages."""
MESSAGES, MESSAGE_CHARS = 200, 2500
STORED = 10_000

type Pause = Callable[[], float]


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(dir=Path.cwd() / "build" if Path("build").is_dir() else None) as folder:
        os.environ["MLXD_STATE_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "mlxd.settings"
        import django

        django.setup()
        yield from asyncio.run(barriers(Path(folder) / "mlxd.sqlite3"))
    yield from placing()


async def barriers(path: Path) -> list[Figure]:
    """Turns that end one after the other, and eight streams: those that one commit let go go on to end together, and
    their ends come at their own times."""
    from mlxd.ledger.disk import open_ledger

    syncs = [p95(plain_syncs(path.with_name("plain"))) for _ in range(ROUNDS)]
    ledger = await asyncio.to_thread(open_ledger, path, days=7)
    gc.freeze()  # as the daemon does
    await settled(ledger, "warm-up", 20, constant(PAUSE_S))
    alone = [await settled(ledger, f"alone {number}", TURNS, constant(PAUSE_S)) for number in range(ROUNDS)]
    together = [await all_settled(ledger, f"{number}", constant(PAUSE_S * 5)) for number in range(ROUNDS)]
    apart = [await all_settled(ledger, f"apart {number}", uniform(PAUSE_S * 5)) for number in range(ROUNDS)]
    undurable = ledger.view().journal.undurable
    ledger.close()
    started = time.perf_counter()
    again = await asyncio.to_thread(open_ledger, path, days=7)
    opened_ms = 1e3 * (time.perf_counter() - started)
    turns = again.view().turns
    again.close()
    return [
        report("plain sync of the disk, p95", syncs, "ms", f"{COMMIT_BYTES // 1024} KiB in a file of full length"),
        at_most("journal barrier p95", map(p95, alone), BARRIER_P95_MS, middle(alone), "ms"),
        at_most(f"journal barrier p95, {STREAMS} streams", map(p95, together), BARRIER_P95_MS, middle(together), "ms"),
        at_most("the same, ends at their own times", map(p95, apart), BARRIER_P95_MS, middle(apart), "ms"),
        at_most("answers that were not durable", [float(undurable)], 0, unit=""),
        report("open with its turns", [opened_ms], "ms", f"{turns} turns"),
    ]


def plain_syncs(path: Path) -> list[float]:
    """Milliseconds that the disk takes for as many bytes as a turn, without a database."""
    waits, blocks = [], [os.urandom(COMMIT_BYTES) for _ in range(4)]
    with path.open("wb", buffering=0) as file:
        file.write(bytes(4_000_000))
        os.fsync(file)
        file.seek(0)
        for number in range(60):
            began = time.perf_counter()
            file.write(blocks[number % 4])
            os.fdatasync(file) if hasattr(os, "fdatasync") else os.fsync(file)
            waits.append(1e3 * (time.perf_counter() - began))
            time.sleep(PAUSE_S)
    return waits


async def all_settled(ledger, name: str, pause_s: Pause) -> list[float]:  # type: ignore[no-untyped-def]
    streams = (settled(ledger, f"{name} {stream}", TURNS // STREAMS, pause_s) for stream in range(STREAMS))
    return [wait for waits in await asyncio.gather(*streams) for wait in waits]


def constant(pause_s: float) -> Pause:
    return lambda: pause_s


def uniform(mean_s: float) -> Pause:
    return partial(random.Random(1).uniform, 0.5 * mean_s, 1.5 * mean_s)


async def settled(ledger, name: str, turns: int, pause_s: Pause) -> list[float]:  # type: ignore[no-untyped-def]
    """Milliseconds that each of a conversation's answers waited for the disk."""
    from inference.conversation.healing import Said
    from inference.conversation.lineage_memory import LineageMemory, Seen
    from inference.conversation.spoken import RawTurn, SpokenTurn
    from inference.conversation.turn_chain import Asked
    from inference.events import Usage
    from mlxd.ledger.record import GenerationRecord

    waits, history = [], [name.encode()]
    memory = LineageMemory(tuple(Seen(os.urandom(32)) for _ in range(MESSAGES)))
    turn = SpokenTurn(RawTurn.of(range(ANSWER_IDS)), "word " * ANSWER_IDS)
    for number in range(turns):
        placed = ledger._lineage.place(Asked(tuple(history), session=name, named=True, at_s=time.time()))
        record = GenerationRecord(f"{name}{number}", "", "model", "stop", "", Usage(100), 0, time.time(), 1.0)
        began = time.perf_counter()
        said = (Said(os.urandom(32), turn),)
        await ledger.settle(record, replace(placed, memory=memory), (b"answer",), said)
        waits.append(1e3 * (time.perf_counter() - began))
        history += [b"answer", b"%d" % number]
        await asyncio.sleep(pause_s())
    return waits


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def middle(rounds: list[list[float]]) -> str:
    whole = sorted(value for values in rounds for value in values)
    return f"median {statistics.median(whole):.2f} ms, p99 {whole[int(len(whole) * 0.99)]:.1f}, most {whole[-1]:.1f}"


def placing() -> Iterator[Figure]:
    """A request of 500 kB among ten thousand turns; on a thread of its own, because it is a large one."""
    from inference.conversation.lineage import Lineage
    from inference.conversation.meaning import meaning_of
    from inference.conversation.turn_chain import Asked
    from inference.messages import Conversation, Message, Role, TextPart, ToolCall
    from mlxd.ledger.asked import asked_of
    from mlxd.ledger.whose import Whose

    lineage = Lineage()
    for number in range(STORED):
        lineage.commit(lineage.place(Asked((b"%d" % number, b"u"))), (b"a",))
    filler = "lorem ipsum " * (MESSAGE_CHARS // 12)
    said = []
    for number in range(MESSAGES // 2):
        said.append(Message(Role.USER, (TextPart(f"{number} {filler}"),)))
        call = ToolCall(f"call_{number}", "write", json.dumps({"path": "notes.txt", "content": filler}))
        said.append(Message(Role.ASSISTANT, (), tool_calls=(call,)))
    conversation = Conversation(tuple(said))
    digest_ms, place_ms = [], []
    for _ in range(15):
        began = time.thread_time()
        asked = asked_of(meaning_of(conversation), Whose())
        compared = time.thread_time()
        lineage.place(asked)
        digest_ms.append(1e3 * (compared - began))
        place_ms.append(1e3 * (time.thread_time() - compared))
    yield report("compare 500 kB by meaning", digest_ms, "ms of CPU", f"{MESSAGES} messages, off the loop")
    yield report("place it in the lineage", place_ms, "ms of CPU", f"among {STORED} turns")

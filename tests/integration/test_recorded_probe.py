"""The probe's table of how clients send answers back, against what each client was recorded to send."""

from __future__ import annotations

from collections import Counter
from functools import cache

from mlxd.probe.asks import Message
from mlxd.probe.echo import CLIENTS
from mlxd.probe.recording import Recorded, read
from mlxd.probe.traffic import Replay, echoes
from tests.recorded import FOLDER, needs_recordings

pytestmark = needs_recordings


@cache
def recordings() -> tuple[Recorded, ...]:
    return tuple(one for one in read(FOLDER) if one.exchanges)


def plain(message: Message) -> Message:
    """What it says: fields of a client's own, and the way of saying that there is no content, aside."""
    told = ("role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id")
    calls = [
        {"id": one["id"], **{name: one["function"][name] for name in ("name", "arguments")}}
        for one in message.get("tool_calls") or ()
    ]
    return {name: message[name] for name in told if message.get(name)} | ({"tool_calls": calls} if calls else {})


def test_every_client_sends_answers_back_as_the_table_says() -> None:
    """Byte by byte: text, thought, ids and the spelling of arguments."""
    found: Counter[str] = Counter()
    for recorded in recordings():
        if recorded.client not in CLIENTS:
            continue
        for number, later in enumerate(recorded.exchanges):
            for at, message in enumerate(later.messages):
                past = next((one for one in recorded.exchanges[:number][::-1] if echoes(one, later, at)), None)
                if message["role"] == "assistant" and past is not None and past.answer is not None:
                    assert plain(CLIENTS[recorded.client].of(past.answer)) == plain(message), recorded.client
                    found[recorded.client] += 1
    assert set(found) == {one.client for one in recordings()} & set(CLIENTS)
    assert min(found.values()) >= 8 and sum(found.values()) >= 120


def test_replays_send_what_was_recorded_when_the_server_answers_as_recorded() -> None:
    """With the recorded answers given again, ids and all, the requests are the recorded ones."""
    for recorded in recordings():
        replay = Replay(recorded, lambda _: True)
        play = replay.play()
        asked = next(play)
        for exchange in recorded.exchanges:
            (ask,) = asked
            for sent, message in zip(ask.messages, exchange.messages, strict=True):
                assert plain(sent) == plain(message), recorded.client
            answer = exchange.answer or {"role": "assistant", "content": ""}
            asked = play.send([answer]) if exchange is not recorded.exchanges[-1] else ()
        assert not replay.left_out

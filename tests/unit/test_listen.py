"""Both loopback addresses or none of a port that somebody else has; one that this machine lacks is told."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from mlxd.banner import start_banner
from mlxd.cli.serve import refuse_taken_port
from mlxd.config import Config
from mlxd.config.addresses import reachable
from mlxd.start_errors import PortTaken
from mlxd.transport import BindFailed, GateConfig, PortInUse, check
from mlxd.transport import listen as listening
from mlxd.transport.listen import Listening, listen

NOWHERE = "2001:db8::1"  # of the documentation's block: no machine has it


def close(opened: Listening) -> None:
    for one in opened.sockets:
        one.close()


def squat(address: str, port: int = 0) -> socket.socket:
    try:
        return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            pytest.skip(f"this machine has no {address}")
        raise


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_a_port_is_ours_on_both_loopbacks_or_not_at_all(host: str, address: str, tmp_path: Path) -> None:
    """Who has the other one would get half of what is sent to `localhost`. It is named before anything is loaded."""
    with squat(address) as squatter:
        port = squatter.getsockname()[1]
        with pytest.raises(PortInUse) as refused:
            listen(host, port)
        assert (refused.value.host, refused.value.port) == (address, port)
        with pytest.raises(PortTaken, match=rf"Port {port} of {address} .* process \d+"):
            refuse_taken_port(Config(state_dir=tmp_path, host=host, port=port))


def test_a_free_port_is_free_on_both_even_if_somebody_gets_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    squatters, bind = list[socket.socket](), listening._listen_on

    def raced(address: str, port: int) -> socket.socket:
        if port and len(squatters) < 3:
            squatters.append(squat(address, port))
        return bind(address, port)

    monkeypatch.setattr(listening, "_listen_on", raced)
    opened = listen("127.0.0.1", 0)
    ports = {one.getsockname()[1] for one in opened.sockets}
    assert ports == {opened.port} and len(opened.sockets) == 2 and len(squatters) == 3
    assert opened.port not in {squatter.getsockname()[1] for squatter in squatters}
    close(opened)
    for squatter in squatters:
        squatter.close()


@pytest.mark.parametrize("loopbacks", [("127.0.0.1", NOWHERE), (NOWHERE, "127.0.0.1")])
def test_an_address_that_is_not_there_is_told(
    loopbacks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(listening, "_LOOPBACK", loopbacks)
    opened = listen("127.0.0.1", 0)
    close(opened)
    ((address, reason),) = opened.missing
    assert opened.addresses == ("127.0.0.1",) and address == NOWHERE and reason
    config = Config(state_dir=tmp_path)
    assert f"not at   {NOWHERE}: {reason}" in start_banner(config, "http://127.0.0.1:1", ["m"], 0, opened.missing)
    assert "not at" not in start_banner(config, "http://127.0.0.1:1", ["m"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9", "192.168.1.2"])
def test_whoever_calls_us_by_the_address_we_tell_is_let_in(host: str, tmp_path: Path) -> None:
    from mlxd.wiring import own_names

    gate = GateConfig(port=8080, hosts=own_names(Config(state_dir=tmp_path, host=host)))
    assert check(gate, "GET", "/v1/models", [(b"host", f"{reachable(host)}:8080".encode())]) is None
    others = own_names(Config(state_dir=tmp_path, host="0.0.0.0", allowed_hosts=("mac.example",)))
    assert others == {"mac.example"}, "no machine is called by the address that stands for all"


def test_no_address_at_all_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_LOOPBACK", (NOWHERE, NOWHERE))
    with pytest.raises(BindFailed, match="cannot listen on 2001:db8::1"):
        listen("localhost", 0)

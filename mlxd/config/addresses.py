"""Which addresses only this machine can reach."""

from __future__ import annotations

import ipaddress

from mlxd.config.knobs import Config
from mlxd.start_errors import InvalidSetting


def is_loopback(host: str) -> bool:
    """Whether a bind address is out of reach of other machines. A name other than `localhost` is not trusted to be."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def refuse_exposed_host(config: Config) -> None:
    """Raises `InvalidSetting` for an address other machines can reach: that needs keys, which do not exist yet."""
    if not is_loopback(config.host):
        raise InvalidSetting(
            f"host {config.host[:64]!r} can be reached from other machines, which needs two settings: `host` and"
            " `require_key` with at least one API key. This version has no API keys yet, so it serves loopback only.",
            cure="Leave out --host and MLXD_HOST, or reach it from elsewhere by `ssh -L 8080:127.0.0.1:8080`.",
        )

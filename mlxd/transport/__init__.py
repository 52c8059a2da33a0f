"""The hardened HTTP edge: daphne in process, with limits, a gate, backpressure and an orderly end.

Importing this package is cheap and installs nothing. `mlxd.transport.server` imports daphne, which installs the asyncio
reactor for the whole process, so import it only where the daemon is about to serve.
"""

from mlxd.transport.errors import BindFailed, ClientDisconnected, PortInUse
from mlxd.transport.gate import GateConfig, Refusal, check
from mlxd.transport.limits import TransportLimits

__all__ = ["BindFailed", "ClientDisconnected", "GateConfig", "PortInUse", "Refusal", "TransportLimits", "check"]

"""Every figure the transport enforces, in one place."""

from __future__ import annotations

from dataclasses import dataclass

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Sizes, counts and times of the edge. All times are measured on the monotonic clock."""

    # Request body. Anthropic's own limit is 32 MiB; a body above `body_memory_bytes` is spooled to an unlinked file.
    body_bytes: int = 32 * _MIB
    body_memory_bytes: int = 1 * _MIB
    body_idle_s: float = 10.0
    body_min_bytes_per_s: int = 1 * _KIB
    body_rate_grace_s: float = 10.0
    body_total_s: float = 60.0

    # Request head: request line plus headers.
    header_timeout_s: float = 10.0
    header_bytes: int = 16 * _KIB
    header_count: int = 200

    # Connections. While fewer than `connections_unmetered` are open nobody is counted by address.
    connections: int = 512
    connections_unmetered: int = 128
    connections_per_ip: int = 64
    keep_alive_idle_s: float = 75.0
    pipelined_bytes: int = 16 * _KIB

    # Writing. 1,000 readers that stop cost 93 MB with this mark and 342 MB with 256 KiB, at the same speed for a reader
    # that does not. The kernel buffer is fixed because Linux would grow it to 4 MB per stalled reader.
    write_high_water_bytes: int = 64 * _KIB
    kernel_send_buffer_bytes: int = 128 * _KIB
    write_stall_s: float = 30.0

    # Ending. A refused client may still be sending: its bytes are read and dropped this long, so that the answer is not
    # lost to a reset.
    linger_s: float = 2.0
    linger_bytes: int = 64 * _MIB
    lingering_refused: int = 64
    disconnect_grace_s: float = 2.0
    shutdown_grace_s: float = 2.0

    # WebSockets.
    websocket_message_bytes: int = 1 * _MIB
    websocket_queue: int = 64
    websocket_accept_s: float = 20.0
    websocket_ping_s: float = 20.0
    websocket_silence_s: float = 60.0

    def sweep_interval_s(self) -> float:
        """How often deadlines are looked at: a tenth of the shortest, between 20 ms and 0.5 s."""
        shortest_s = min(
            self.body_idle_s, self.body_total_s, self.header_timeout_s, self.keep_alive_idle_s, self.write_stall_s,
            self.linger_s, self.websocket_ping_s, self.websocket_silence_s,
        )  # fmt: skip
        return min(0.5, max(0.02, shortest_s / 10))

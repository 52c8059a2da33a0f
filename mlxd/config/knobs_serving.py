"""The settings of what stands before the engine: addresses, models, the queue, and what a client may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mlxd.config.knob import About

LISTEN, MODELS, QUEUE, LIMITS = "Listening", "Models", "Queue and time limits", "Connection limits"
KIB, MIB = 1024, 1024**2


@dataclass(frozen=True, kw_only=True)
class ServingKnobs:
    """Who may connect, which models answer, how long anybody waits."""

    host: Annotated[
        str,
        About(
            LISTEN,
            "Address to listen on. One that other machines can reach needs `require_key` and a key (`mlxd keys add`).",
        ),
    ] = "127.0.0.1"
    port: Annotated[int, About(LISTEN, "TCP port; 0 takes any free one.", 0, 65535)] = 8080
    require_key: Annotated[
        bool | None,
        About(
            LISTEN,
            "Answer only requests that bring a key of `mlxd keys add`. Off: on loopback any key or none does."
            " `auto`: on where more than one person has an account on this machine.",
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        About(LISTEN, "More names a Host header may carry, besides the loopback names.", flag="allowed-host"),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        About(LISTEN, "Web origins (scheme://host:port) that may call the API from a browser.", flag="allowed-origin"),
    ] = ()

    models: Annotated[
        tuple[str, ...],
        About(
            MODELS,
            "Model to serve: a DIRECTORY, a Hugging Face REPO (owner/name), or NAME=either to choose its id.",
            flag="model",
            short="m",
        ),
    ] = ()
    demo: Annotated[bool, About(MODELS, "Serve the small demo model that comes with mlxd.")] = False
    max_models: Annotated[
        int, About(MODELS, "Models kept in memory at once; several --model flags raise it to their number.", 1, 64)
    ] = 1
    strict_models: Annotated[
        bool, About(MODELS, "Refuse a request that names an unknown model even when only one model is served.")
    ] = False
    hf_endpoint: Annotated[
        str, About(MODELS, "Where `serve --model REPO` downloads from; the HF_ENDPOINT variable is not consulted.")
    ] = "https://huggingface.co"

    queue_size: Annotated[int, About(QUEUE, "Requests that may wait; the next one is answered 503.", 0, 65536)] = 64
    queue_size_per_key: Annotated[int, About(QUEUE, "Requests one client may have waiting.", 1, 65536)] = 8
    queue_timeout_s: Annotated[float, About(QUEUE, "Longest wait in the queue.", 0.1, 86400)] = 300.0
    drain_s: Annotated[
        float, About(QUEUE, "Time running answers get to finish after SIGTERM (launchd kills at 20).", 0, 3600)
    ] = 15.0
    watchdog_s: Annotated[
        float, About(QUEUE, "Without progress for this long the engine counts as hung.", 1, 86400)
    ] = 60.0
    generation_deadline_s: Annotated[
        float, About(QUEUE, "Wall-clock limit of one answer, which then ends with `length`; 0 is none.", 0, 86400)
    ] = 0.0
    keepalive_s: Annotated[
        float, About(QUEUE, "A silent stream gets a comment line this often, so that clients do not give up.", 0.1, 600)
    ] = 5.0

    max_body_bytes: Annotated[
        int, About(LIMITS, "Largest request body; larger ones are answered 413.", KIB, 1 << 40)
    ] = 32 * MIB
    max_connections: Annotated[int, About(LIMITS, "Open connections in all.", 1, 65536)] = 512
    max_connections_per_address: Annotated[int, About(LIMITS, "Open connections from one address.", 1, 65536)] = 64
    slow_reader_s: Annotated[
        float, About(LIMITS, "A client that reads nothing for this long is disconnected.", 1, 3600)
    ] = 30.0

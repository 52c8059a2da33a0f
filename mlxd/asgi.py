"""The application the transport calls: generation paths to the stream consumer, everything else to Django.

Importing it sets Django up and starts nothing.
"""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlxd.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

from mlxd.access_log import logged
from mlxd.on_loop import OnLoop
from mlxd.streams import Receive, Scope, Send, StreamConsumer

django_app = get_asgi_application()
generation = StreamConsumer.as_asgi(app=OnLoop())


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """There are none yet: closing before accepting is answered 403."""
    await receive()
    await send({"type": "websocket.close", "code": 1008})


application = logged(
    ProtocolTypeRouter(
        {
            "http": URLRouter(
                [
                    path("v1/chat/completions", generation),
                    path("v1/completions", generation),
                    re_path("", django_app),  # type: ignore[arg-type]  # ASGI applications are routed, not views
                ]
            ),
            "websocket": refuse_websocket,
        }
    )
)

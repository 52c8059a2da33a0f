"""The commands as processes of their own, and a scripted server for them to talk to."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MLXD = [sys.executable, "-m", "mlxd"]


def run(environ, *arguments, **options):
    began = time.monotonic()
    ended = subprocess.run(
        [*MLXD, *arguments], env=environ, capture_output=True, text=True, timeout=240, check=False, **options
    )
    return ended, time.monotonic() - began


@contextlib.contextmanager
def nobody_listens():
    """A port that is taken, so that nobody else comes to listen there either."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Peer:
    """A scripted server of the OpenAI chat API: records requests, answers with a thought and a text."""

    def __init__(self):
        self.requests, self.broken_pipes, self.endless = [], threading.Event(), False
        peer = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path != "/v1/models":
                    return self.reply(404, {"error": {"message": "Not here."}})
                return self.reply(200, {"data": [{"id": "scripted"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                peer.requests.append(body | {"key": self.headers.get("Authorization")})
                if self.path != "/v1/chat/completions":
                    return self.reply(404, {"error": {"message": "Not here."}})
                if body["model"] == "missing":
                    return self.reply(404, {"error": {"message": "There is no model 'missing' here."}})
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    self.stream()
                except OSError:
                    peer.broken_pipes.set()
                return None

            def stream(self):
                self.event({"delta": {"reasoning_content": "hm\x1b[2J"}})
                self.event({"delta": {"content": "forty-"}})
                while peer.endless:
                    self.event({"delta": {"content": "x "}})
                    time.sleep(0.02)
                self.event({"delta": {"content": "two"}, "finish_reason": "stop"})
                usage = {"prompt_tokens": 9, "completion_tokens": 3}
                self.wfile.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())

            def event(self, choice):
                self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
                self.wfile.flush()

            def reply(self, status, body):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

"""A child: asks for /health/live ten times a second for some seconds, prints the latencies in ms as one JSON list."""

from __future__ import annotations

import json
import sys
import time

import httpx

EVERY_S = 0.1


def main() -> None:
    url, seconds = sys.argv[1], float(sys.argv[2])
    until_s = time.perf_counter() + seconds
    taken_ms = []
    with httpx.Client(base_url=url, timeout=30) as http:
        http.get("/health/live")
        while time.perf_counter() < until_s:
            began_s = time.perf_counter()
            http.get("/health/live").raise_for_status()
            taken_ms.append((time.perf_counter() - began_s) * 1e3)
            time.sleep(EVERY_S)
    print(json.dumps(taken_ms))


if __name__ == "__main__":
    main()

"""Asks a hub over HTTP: answers of bounded size as they are, redirects by hand, the token to nobody else.

Bodies are asked for and taken uncompressed, so that a byte that comes is a byte that counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from inference.errors import ModelNotFound
from mlxd import __version__
from mlxd.catalog.fetch.backoff import Backoff, Waiting, retry_after_s
from mlxd.catalog.fetch.failures import DownloadFailed, Transient

MAX_JSON_BYTES: Final = 8 * 1024**2
MAX_JSON_VALUES: Final = 400_000
"""Counted before parsing: `[],` is three bytes and its list 72."""
MAX_REDIRECTS: Final = 5
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
BUSY: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Body:
    """What comes of a file: from which byte on, of how many in all (None where the hub does not say)."""

    begins_at: int
    total_bytes: int | None
    chunks: Iterator[bytes]


class Hub:
    """One hub, by the address that was configured. `backoff` makes the waits of one thing that is tried again."""

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        told: Callable[[Waiting], None] = lambda _: None,
        backoff: Callable[[Callable[[Waiting], None]], Backoff] = Backoff,
    ) -> None:
        self.endpoint = _endpoint(endpoint)
        self._token = token
        self._told = told
        self._backoff = backoff
        self._client = httpx.Client(timeout=TIMEOUT, follow_redirects=False)

    def close(self) -> None:
        self._client.close()

    def patience(self) -> Backoff:
        return self._backoff(self._told)

    def url(self, path: str) -> httpx.URL:
        """Of a path made of checked names below the endpoint."""
        return httpx.URL(f"{self.endpoint}{path}")

    def read_json(self, url: httpx.URL) -> tuple[Any, httpx.URL | None]:
        """An answer and the address of its next page. Tried again while the hub is busy. Raises `DownloadFailed`."""
        patience = self.patience()
        while True:
            try:
                with self._answer(url, {}) as response:
                    return _parsed(_bounded(response)), _next(url, response)
            except Transient as failure:
                patience.wait(failure)

    @contextmanager
    def body(self, url: httpx.URL, begin_at: int) -> Iterator[Body]:
        """A file from a byte on, or from its first where the hub cannot do otherwise. Raises `Transient` as well."""
        asked = {"Range": f"bytes={begin_at}-"} if begin_at else {}
        with self._answer(url, asked) as response:
            begins_at, total_bytes = _extent(response)
            # As it comes: pieces of a chosen size would be gathered first, and lost where the connection breaks.
            yield Body(begins_at, total_bytes, response.iter_raw())

    @contextmanager
    def _answer(self, url: httpx.URL, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The first answer that is no redirect, if it is a good one."""
        try:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._client.build_request("GET", url, headers={**headers, **self._own_headers(url)})
                try:
                    response = self._client.send(request, stream=True)
                except ValueError:  # the client looks at the address of a redirect, and finds its host to be no name
                    raise DownloadFailed(f"{url.host} redirects to where mlxd does not follow.") from None
                try:
                    if not response.has_redirect_location:
                        yield _good(response)
                        return
                finally:
                    response.close()
                url = _redirected(url, response.headers["location"])
        except httpx.TimeoutException:
            raise Transient(f"{url.host} does not answer") from None
        except httpx.TransportError as error:
            raise Transient(f"{url.host} cannot be reached or broke off ({type(error).__name__})") from None
        raise DownloadFailed(f"{self.endpoint.host} sends round in circles.")

    def _own_headers(self, url: httpx.URL) -> dict[str, str]:
        """The token goes to the configured hub itself, and never in the clear to another machine."""
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mlxd/{__version__}"}
        secret = url.scheme == "https" or url.host in ("localhost", "127.0.0.1", "::1")
        if self._token and secret and _origin(url) == _origin(self.endpoint):
            headers["Authorization"] = f"Bearer {self._token}"
        return headers


def _endpoint(text: str) -> httpx.URL:
    url = _parsed_url(lambda: httpx.URL(text.rstrip("/")))
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise DownloadFailed("hf_endpoint must be an address like https://huggingface.co.")
    return url


def _parsed_url(made: Callable[[], httpx.URL]) -> httpx.URL:
    """An empty one for what is none. Names of other scripts (`xn--a`) are looked into when the host is asked for."""
    try:
        url = made()
        return url if url.host else httpx.URL()
    except (httpx.InvalidURL, ValueError):
        return httpx.URL()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    target = _parsed_url(lambda: url.join(location))
    weaker = url.scheme == "https" and target.scheme != "https"
    if target.scheme not in ("http", "https") or not target.host or target.userinfo or weaker:
        raise DownloadFailed(f"{url.host} redirects to where mlxd does not follow.")
    return target


def _good(response: httpx.Response) -> httpx.Response:
    """Raises `ModelNotFound`, `DownloadFailed` or `Transient` for what is no answer."""
    status, host = response.status_code, response.url.host
    if status in (200, 206):
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadFailed(f"{host} answers compressed, though asked not to.")
        return response
    if status in BUSY:
        raise Transient(f"{host} answers {status}", retry_after_s(response.headers))
    code = response.headers.get("x-error-code", "")
    if code == "GatedRepo":
        raise ModelNotFound("It is gated: accept its licence on the hub and run `hf auth login` first.")
    if status in (401, 403, 404):
        raise ModelNotFound(f"{host} has nothing of that name that this machine may read ({status}).")
    raise DownloadFailed(f"{host} answers {status}.")


def _bounded(response: httpx.Response) -> bytes:
    raw = bytearray()
    for chunk in response.iter_raw():
        raw += chunk
        if len(raw) > MAX_JSON_BYTES:
            raise DownloadFailed(f"{response.url.host} lists more than {MAX_JSON_BYTES >> 20} MB at once.")
    return bytes(raw)


def _parsed(raw: bytes) -> Any:
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise DownloadFailed("The hub's listing holds too many values.")
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise DownloadFailed("The hub's listing is not JSON.") from None


def _next(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    found = response.links.get("next", {}).get("url")
    if not found:
        return None
    target = _redirected(url, found)
    if _origin(target) != _origin(url):
        raise DownloadFailed("The hub's listing goes on at another host.")
    return target


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None:
            raise DownloadFailed(f"{response.url.host} sends a part and does not say which.")
        return int(found[1]), int(found[3])
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None

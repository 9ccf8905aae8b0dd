"""The checks of every request: its host and origin, its token and its size; and its metrics.

A web page of another site, open in a browser on the same machine, can send requests to the server.
So the host that a request names must be a known name of the server, which excludes DNS rebinding,
and if the browser sends the origin of the page (`Origin`), it must be the server itself.
"""

import hmac
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgen.serving.http.batcher import Batcher
from kgen.serving.http.metrics import Metrics

OPEN = ("/health", "/ready")  # probes call them by the address of a container
PROTECTED = ("/v1/", "/metrics")  # need the token
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'",
    ),
)


def error_body(
    message: str,
    *,
    field: str | None = None,
    code: str | None = None,
    kind: str = "invalid_request_error",
) -> dict[str, Any]:
    """Returns the body of an error, as OpenAI's API defines it.

    Args:
        message: one sentence.
        field: the field of the request that causes the error, or None.
        code: an identifier of the error for programs, or None.
        kind: `"invalid_request_error"` or `"server_error"`.
    """
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


class Guard:
    """ASGI middleware that refuses requests, adds headers to responses, and counts both.

    Args:
        app: the application.
        metrics: the metrics of the server.
        token: the token that clients must send as `Authorization: Bearer TOKEN`, or None.
        hosts: names by which the server may be called; None for any.
        max_bytes: largest size of the body of a request.

    Attributes:
        batcher: the `Batcher` of the application, set by `application`.
    """

    batcher: Batcher

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        token: str | None = None,
        hosts: Iterable[str] | None = None,
        max_bytes: int = 32_000_000,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.token = None if token is None else token.encode()
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.max_bytes = max_bytes
        self._too_large = f"A request must have at most {max_bytes} bytes."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), [500]
        num_bytes = [0]

        async def send_and_watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        async def receive_and_count() -> Message:
            message = await receive()
            num_bytes[0] += len(message.get("body", b""))
            if num_bytes[0] > self.max_bytes:
                raise HTTPException(413, self._too_large)
            return message

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await _send_json(send_and_watch, *refusal)
                return
            await self.app(scope, receive_and_count, send_and_watch)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            self.metrics.count_request(path, method, status[0], time.monotonic() - start)

    def _refusal(self, scope: Scope) -> tuple | None:
        """Returns None for an allowed request, else status, body and possibly headers."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if scope["path"] in OPEN:
            return None
        if self.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return 403, error_body("The server does not have this host name.", code="wrong_host")
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
            body = error_body(
                "Requests from pages of other sites are refused.", code="wrong_origin"
            )
            return 403, body
        if self.token is not None and scope["path"].startswith(PROTECTED):
            authorization = headers.get(b"authorization", b"")
            if not hmac.compare_digest(authorization, b"Bearer " + self.token):
                body = error_body("A valid token is required.", code="invalid_api_key")
                return 401, body, [(b"www-authenticate", b"Bearer")]
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            return 413, error_body(self._too_large, code="too_large")
        return None


async def _send_json(
    send: Send,
    status: int,
    body: dict[str, Any],
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Sends a whole response with a JSON body."""
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), *headers]
    headers.append((b"content-length", str(len(data)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})

"""What every request passes: whose it is, how large it is, how long its answer took.

A page of a stranger in a browser can send requests to a server on the same machine. So the host
that a request names must be one that the server knows, and where a browser says from which page
(`Origin`) a request comes, it must be the server's own.
"""

import hmac
import json
import time
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

OPEN = ("/health", "/ready")
PROTECTED = ("/v1/", "/metrics")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'",
    ),
)


def error_body(message, *, field=None, code=None, kind="invalid_request_error"):
    """An error in the form of OpenAI's API, a dictionary."""
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


class Guard:
    """An ASGI application before another one.

    Args:
        app: the other one.
        metrics: a `Metrics`.
        token: None, or what clients must send as `Authorization: Bearer TOKEN`.
        hosts: names by which the server may be called, None for any.
        max_bytes: of the body of a request.
    """

    def __init__(self, app, metrics, *, token=None, hosts=None, max_bytes=32_000_000):
        self.app = app
        self.metrics = metrics
        self.token = None if token is None else token.encode()
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.max_bytes = max_bytes
        self._large = f"A request must have at most {max_bytes} bytes."

    async def __call__(self, scope, receive, send):
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), [500]
        read = [0]

        async def watched_send(message):
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        async def watched_receive():
            message = await receive()
            read[0] += len(message.get("body", b""))
            if read[0] > self.max_bytes:
                raise HTTPException(413, self._large)
            return message

        try:
            refused = self._refused(scope)
            if refused is not None:
                await _answer(watched_send, *refused)
                return
            await self.app(scope, watched_receive, watched_send)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            self.metrics.answered(path, method, status[0], time.monotonic() - began)

    def _refused(self, scope):
        """The status and body, perhaps headers, of the refusal of a request, or None."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if scope["path"] in OPEN:  # as probes call them, by the address of a container
            return None
        if self.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return 403, error_body("The server is not called by this name.", code="wrong_host")
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
            return 403, error_body("Requests of other pages are refused.", code="wrong_origin")
        if self.token is not None and scope["path"].startswith(PROTECTED):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.token):
                body = error_body("A token is needed.", code="invalid_api_key")
                return 401, body, [(b"www-authenticate", b"Bearer")]
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            return 413, error_body(self._large, code="too_large")
        return None


async def _answer(send, status, body, headers=()):
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), *headers]
    headers.append((b"content-length", str(len(data)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})

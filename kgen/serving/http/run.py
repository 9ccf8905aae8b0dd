"""Running the server as a process, from listening to shutdown."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

import uvicorn

from kgen.serving.http.app import application
from kgen.serving.http.backend import Backend
from kgen.serving.http.batcher import Batcher
from kgen.serving.http.guard import LOOPBACK
from kgen.serving.http.limits import ServerLimits

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """A server that shuts down gracefully after a signal.

    It accepts no further connections and answers the requests that it has, and the process ends
    with exit code 0. (The base class raises the signal again.) A second Ctrl-C stops it at once.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals while the server runs, if it runs in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on an address.

    Args:
        host: a name or an address.
        port: the port; 0 for any free port.

    Raises:
        OSError: if the name cannot be resolved, or the address cannot be used.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def serve(
    backend: Backend,
    listener: socket.socket,
    limits: ServerLimits,
    *,
    token: str | None = None,
    hosts: Iterable[str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        backend: the backend.
        listener: the socket, see `listen`.
        limits: the bounds of the server.
        token: the bearer token that clients must send, or None.
        hosts: names by which the server may be called, besides those of the loopback address; None
            for any.
        say: a function that shows a progress message.
    """
    if hosts is not None:
        hosts = {*hosts, *LOOPBACK}
    app = application(backend, limits, token=token, hosts=hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=int(limits.timeout) + 1,
    )
    asyncio.run(_run(_Server(config), listener, app.batcher, say))


async def _run(
    server: uvicorn.Server, listener: socket.socket, batcher: Batcher, say: Callable[[str], None]
) -> None:
    reporting = asyncio.create_task(_report_warm_up(batcher, say))
    await server.serve(sockets=[listener])
    reporting.cancel()


async def _report_warm_up(batcher: Batcher, say: Callable[[str], None]) -> None:
    """Shows a message when the warm-up has finished or failed."""
    while not batcher.ready:
        if batcher.failed is not None:
            say(f"The warm-up failed: {batcher.failed}")
            return
        await asyncio.sleep(0.05)
    say("Ready")

"""Runs the server as a process: listens, says where, ends when it is asked to."""

import asyncio
import contextlib
import signal
import socket
import threading

import uvicorn

from kgen.serving.http.app import application
from kgen.serving.http.guard import LOOPBACK

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """A server that ends with exit code 0 after a signal: no connection is taken any more, and
    those that are there get their answers. A second Ctrl-C ends it at once.
    """

    @contextlib.contextmanager
    def capture_signals(self):
        """Takes the signals for as long as the server runs, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def listen(host, port):
    """Returns a socket that listens on an address.

    Args:
        host: a name or an address.
        port: 0 for any that is free.

    Raises:
        OSError: if that cannot be.
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


def serve(backend, listener, limits, *, token=None, hosts=None, say=print):
    """Serves until SIGTERM or Ctrl-C.

    Args:
        backend: a `LocalModel` or `TensorFlowServing`.
        listener: a socket, of `listen`.
        limits: a `ServerLimits`.
        token: None, or the bearer token that clients must send.
        hosts: names by which the server may be called besides those of this machine for itself;
            None for any.
        say: a function that tells a person how it goes.
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


async def _run(server, listener, batcher, say):
    watching = asyncio.create_task(_tell(batcher, say))
    await server.serve(sockets=[listener])
    watching.cancel()


async def _tell(batcher, say):
    """Says when the first picture can be asked for."""
    while not batcher.ready:
        if batcher.failed is not None:
            say(f"The warm-up failed: {batcher.failed}")
            return
        await asyncio.sleep(0.05)
    say("Ready")

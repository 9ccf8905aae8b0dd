"""`kgen serve`: a model over HTTP, with an API that existing clients support, and a web page."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kgen.cli import metadata
from kgen.cli.errors import CommandError, UsageError, arguments_from_user, one_line
from kgen.cli.models import open_model, weights_sha256

if TYPE_CHECKING:
    from kgen.cli.session import Result, Session
    from kgen.serving.http.local import LocalModel
    from kgen.serving.http.tensorflow_serving import TensorFlowServing

PACKAGES = ("fastapi", "multipart", "prometheus_client", "uvicorn")


def run(args: argparse.Namespace, session: Session) -> Result:
    """Serves the model until SIGTERM or Ctrl-C.

    Raises:
        CommandError: if a package is missing, the address cannot be used, or the model cannot be
            opened.
        UsageError: if there is no such model, or an argument cannot be used.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"the server needs the packages of the extra `serve` ({missing[0]} is missing): "
            "pip install 'kgen-keras[serve]'"
        )
    from kgen.serving.http.guard import LOOPBACK
    from kgen.serving.http.limits import ServerLimits
    from kgen.serving.http.run import listen, serve

    with arguments_from_user():
        limits = ServerLimits(
            max_count=min(args.max_count, args.max_batch, args.max_queue),
            max_steps=args.max_steps,
            max_prompt=args.max_prompt,
            max_queue=args.max_queue,
            max_batch=args.max_batch,
            timeout=args.timeout,
        )
    token = _token(args)
    try:
        listener = listen(args.host, args.port)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {args.host}:{args.port}: {one_line(error)}"
        ) from error
    with listener:
        backend = _backend(args, session)
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        session.say(f"Serving {backend.name} at {url}")
        if args.host not in LOOPBACK and token is None:
            session.say(
                "Anyone who can reach this address can use the model: set a token with --token-file"
            )
        if args.host in ("0.0.0.0", "::") and not args.allow_host:
            session.say(
                "Requests from other machines are refused: name this host with --allow-host"
            )
        hosts = None if "*" in args.allow_host else {*args.allow_host, args.host}
        with session.saving():  # after Ctrl-C the server answers the requests that it has accepted
            serve(backend, listener, limits, token=token, hosts=hosts, say=session.say)
    return {"model": backend.name, "url": url}, [f"Served {backend.name}"]


def _backend(args: argparse.Namespace, session: Session) -> LocalModel | TensorFlowServing:
    """Returns what generates the pictures: a model in this process, or TensorFlow Serving.

    Raises:
        CommandError: if the model cannot be opened, or TensorFlow Serving cannot be reached.
        UsageError: if there is no such model, or an argument cannot be used.
    """
    styles = [name.strip() for name in (args.styles or "").split(",") if name.strip()]
    if args.backend is not None:
        from kgen.serving.http.tensorflow_serving import TensorFlowServing

        if args.size:
            raise UsageError("--size cannot be used with --backend: an export has one size")
        describe = functools.partial(metadata.describe, model=args.model, model_sha256=None)
        try:
            return TensorFlowServing(args.backend, args.model, describe=describe, styles=styles)
        except (OSError, ValueError) as error:
            raise CommandError(f"--backend {args.backend}: {one_line(error)}") from error
    from kgen.serving.http.local import LocalModel

    model, folder = open_model(args.model, session)
    describe = functools.partial(
        metadata.describe, model=args.model, model_sha256=weights_sha256(folder)
    )
    with arguments_from_user():
        return LocalModel(
            model,
            folder.name,
            describe=describe,
            sizes=args.size,
            styles=styles or _default_styles(folder),
            max_batch=args.max_batch,
        )


def _default_styles(folder: pathlib.Path) -> Sequence[str]:
    """Returns the styles that the included text-to-image model was trained on, else none."""
    if folder.name != "text_to_image":
        return []
    from kgen.data.emoji import STYLES

    return STYLES


def _token(args: argparse.Namespace) -> str | None:
    """Returns the bearer token of `--token-file` or `KGEN_TOKEN`, or None.

    Raises:
        UsageError: if the file cannot be read, or does not begin with a line of ASCII.
    """
    if args.token_file is None:
        return os.environ.get("KGEN_TOKEN") or None
    try:
        lines = args.token_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {args.token_file}: {one_line(error)}") from error
    if not lines or not lines[0].strip() or not lines[0].isascii():
        raise UsageError(f"--token-file {args.token_file} must begin with a line of ASCII")
    return lines[0].strip()

"""`kgen serve`: a model over HTTP, by an API that clients know, with a page for browsers."""

import functools
import importlib.util
import os

from kgen.cli import metadata
from kgen.cli.errors import CommandError, UsageError, arguments_from_user, one_line
from kgen.cli.models import open_model, sum_of

PACKAGES = ("fastapi", "multipart", "prometheus_client", "uvicorn")


def run(args, session):
    """Serves until SIGTERM or Ctrl-C; returns what was served."""
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
            session.say("Whoever reaches this address can draw: give a token with --token-file")
        if args.host in ("0.0.0.0", "::") and not args.allow_host:
            session.say("Others must call it by a name that --allow-host gives")
        hosts = None if "*" in args.allow_host else {*args.allow_host, args.host}
        with session.saving():  # Ctrl-C lets requests end
            serve(backend, listener, limits, token=token, hosts=hosts, say=session.say)
    return {"model": backend.name, "url": url}, [f"Served {backend.name}"]


def _backend(args, session):
    """What draws: TensorFlow Serving, or a model in this process."""
    styles = [name.strip() for name in (args.styles or "").split(",") if name.strip()]
    if args.backend is not None:
        from kgen.serving.http.tensorflow_serving import TensorFlowServing

        if args.size:
            raise UsageError("--size is decided by the model that was exported")
        describe = functools.partial(metadata.describe, model=args.model, model_sha256=None)
        try:
            return TensorFlowServing(args.backend, args.model, describe=describe, styles=styles)
        except (OSError, ValueError) as error:
            raise CommandError(f"--backend {args.backend}: {one_line(error)}") from error
    from kgen.serving.http.local import LocalModel

    model, folder = open_model(args.model, session)
    describe = functools.partial(metadata.describe, model=args.model, model_sha256=sum_of(folder))
    with arguments_from_user():
        return LocalModel(
            model,
            folder.name,
            describe=describe,
            sizes=args.size,
            styles=styles or _styles_of(folder),
            max_batch=args.max_batch,
        )


def _styles_of(folder):
    """The styles that the shipped text-to-image model has learnt."""
    if folder.name != "text_to_image":
        return []
    from kgen.data.emoji import STYLES

    return STYLES


def _token(args):
    """The bearer token, or None."""
    if args.token_file is None:
        return os.environ.get("KGEN_TOKEN") or None
    try:
        lines = args.token_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {args.token_file}: {one_line(error)}") from error
    if not lines or not lines[0].strip() or not lines[0].isascii():
        raise UsageError(f"--token-file {args.token_file} must begin with a line of ASCII")
    return lines[0].strip()

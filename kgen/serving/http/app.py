"""The application: routes of the images API, of probes and figures, and the page."""

import asyncio
import contextlib
import pathlib
import time

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from kgen.fitting import fitted, mask_for
from kgen.serving.http.answers import Painter, event
from kgen.serving.http.batcher import Batcher
from kgen.serving.http.guard import Guard, error_body
from kgen.serving.http.job import Job, RefusedError
from kgen.serving.http.limits import ServerLimits
from kgen.serving.http.metrics import Metrics
from kgen.serving.http.requests import (
    Edit,
    Generation,
    check_model,
    drawing_of,
    mask_of,
    opened,
)

PAGE = pathlib.Path(__file__).parent / "page"
ALIVE = 5.0  # seconds of silence in a stream, after which a comment is sent


def application(backend, limits=None, *, token=None, hosts=None):
    """Returns the server as an ASGI application.

    Args:
        backend: a `LocalModel` or `TensorFlowServing`.
        limits: a `ServerLimits`; None for its defaults.
        token: None, or the bearer token that clients must send.
        hosts: names by which the server may be called, None for any.

    Returns:
        The application; its attribute `batcher` is the `Batcher`.
    """
    limits = ServerLimits() if limits is None else limits
    metrics = Metrics()
    batcher = Batcher(backend, limits, metrics)
    metrics.watch(batcher)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="kgen", lifespan=lifespan, docs_url=None, redoc_url=None)
    _errors(app)
    _images(app, backend, limits, batcher)
    _models(app, backend, limits)
    _probes(app, backend, batcher, metrics)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    guard = Guard(app, metrics, token=token, hosts=hosts, max_bytes=limits.max_bytes)
    guard.batcher = batcher
    return guard


def _errors(app):
    """Answers errors in the form of the images API."""

    @app.exception_handler(RefusedError)
    async def refused(request, error):
        headers = {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        body = error_body(str(error), field=error.field, code=error.code, kind=kind)
        return JSONResponse(body, error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(request, error):
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        field = place[0] if place else None
        message = f"`{field}`: {first['msg']}" if field else first["msg"]
        return JSONResponse(error_body(message, field=field, code=first["type"]), 422)

    @app.exception_handler(HTTPException)
    async def other(request, error):
        return JSONResponse(error_body(str(error.detail)), error.status_code, error.headers)


def _images(app, backend, limits, batcher):
    @app.post("/v1/images/generations")
    async def generations(body: Generation, request: Request):
        """Draws pictures of a prompt."""
        check_model(body.model, backend)
        drawing = await asyncio.to_thread(drawing_of, body, backend, limits)
        return await _drawn(request, Painter(body, drawing, backend.describe), batcher)

    @app.post("/v1/images/edits")
    async def edits(request: Request):
        """Redraws a picture after a prompt, all of it or what a mask says; a form with files."""
        async with request.form(max_files=4, max_fields=40) as form:
            files, fields = {}, {}
            for name, value in form.multi_items():
                name = name.removesuffix("[]")
                if name in files or name in fields:
                    raise RefusedError(f"`{name}` must be given once.", field=name)
                if isinstance(value, UploadFile):
                    files[name] = await value.read()
                else:
                    fields[name] = value
        body = Edit.model_validate(fields)
        check_model(body.model, backend)
        if not backend.edits:
            raise RefusedError("The model cannot begin from a picture.", field="image")
        for name in files:
            if name not in ("image", "mask"):
                raise RefusedError(f"`{name}` must not be a file.", field=name)
        if "image" not in files:
            raise RefusedError("`image` must be a file, a picture.", field="image")
        if body.size not in (None, "", "auto"):
            raise RefusedError("`size` must be auto: that of the picture.", field="size")
        painter = await asyncio.to_thread(_editing, body, files, backend, limits)
        return await _drawn(request, painter, batcher)


def _editing(body, files, backend, limits):
    picture = opened(files["image"], limits, "image")
    mask = small = None
    if "mask" in files:
        mask = mask_of(opened(files["mask"], limits, "mask"), picture.size)
        small = mask_for(mask, backend.shape)
    image = fitted(picture.pixels, backend.shape)
    drawing = drawing_of(body, backend, limits, image=image, mask=small)
    return Painter(body, drawing, backend.describe, picture, mask)


async def _drawn(request, painter, batcher):
    """Waits for the pictures of a request; returns the answer."""
    job = Job(painter.drawing)
    batcher.submit(job)
    if painter.request.stream:
        return StreamingResponse(
            _stream(request, painter, job, batcher),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    gone = asyncio.create_task(_gone(request))
    try:
        async with asyncio.timeout(batcher.limits.timeout):
            _, pictures = await _event(job, gone)
    except TimeoutError:
        raise _late(batcher) from None
    finally:
        gone.cancel()
        batcher.cancel(job)
    return JSONResponse(await asyncio.to_thread(painter.whole, pictures))


async def _stream(request, painter, job, batcher):
    """The events of a request: looks at the way, the pictures, or an error."""
    gone = asyncio.create_task(_gone(request))
    index, until = 0, time.monotonic() + batcher.limits.timeout
    try:
        while True:
            if time.monotonic() >= until:
                raise _late(batcher)
            try:
                async with asyncio.timeout(min(ALIVE, until - time.monotonic())):
                    kind, value = await _event(job, gone)
            except TimeoutError:
                yield b": waiting\n\n"
                continue
            if kind == "pictures":
                yield await asyncio.to_thread(painter.completed, value)
                return
            yield await asyncio.to_thread(painter.partial, *value, index)
            index += 1
    except RefusedError as error:
        if error.status != GONE:
            yield event("error", error_body(str(error), field=error.field, code=error.code))
    finally:
        gone.cancel()
        batcher.cancel(job)


GONE = 499  # as nginx counts clients that have left


async def _event(job, gone):
    """The next event of a job, or an error if it failed or the client has left."""
    waiting = asyncio.create_task(job.next_event())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise RefusedError("The client has left.", GONE, code="client_left")
        kind, value = waiting.result()
    finally:
        waiting.cancel()
    if kind == "error":
        raise value
    return kind, value


async def _gone(request):
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _late(batcher):
    message = f"The pictures were not drawn within {batcher.limits.timeout:g} seconds."
    return RefusedError(message, 504, code="timeout")


def _models(app, backend, limits):
    entry = {
        "id": backend.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "kgen",
        "takes": backend.takes,
        "classes": backend.classes,
        "styles": backend.styles,
        "sizes": [f"{width}x{height}" for height, width in backend.sizes],
        "edits": backend.edits,
        "negatives": backend.negatives,
        "defaults": backend.defaults,
        "limits": {
            "count": limits.max_count,
            "steps": limits.max_steps,
            "prompt": limits.max_prompt,
            "pixels": limits.max_pixels,
        },
    }

    @app.get("/v1/models")
    async def models():
        """The models that are served: one."""
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str):
        """What a model is."""
        check_model(name, backend)
        return entry


def _probes(app, backend, batcher, metrics):
    @app.get("/health")
    async def health():
        """Whether the process works: 200, or 500 where it should be started again."""
        if batcher.failed is not None:
            return JSONResponse({"status": "failed"}, 500)
        return {"status": "ok"}

    @app.get("/ready")
    async def ready():
        """Whether a request is answered at once: 200 after the warm-up, else 503."""
        if batcher.ready and await asyncio.to_thread(backend.available):
            return {"status": "ready"}
        return JSONResponse({"status": "not ready"}, 503, headers={"Retry-After": "1"})

    @app.get("/metrics")
    async def figures():
        """Figures for Prometheus."""
        kind, text = metrics.text()
        return Response(text, media_type=kind)

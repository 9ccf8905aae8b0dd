"""The application: the routes of the images API, of health checks and metrics, and of the page."""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from kgen.fitting import fitted, mask_for
from kgen.serving.http.backend import Backend
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
    read_picture,
)
from kgen.serving.http.responses import ResponseBuilder, event

PAGE = pathlib.Path(__file__).parent / "page"
KEEP_ALIVE = 5.0  # seconds without an event, after which a stream sends a comment
CLIENT_CLOSED = 499  # status that nginx logs for a client that has closed the connection


def application(
    backend: Backend,
    limits: ServerLimits | None = None,
    *,
    token: str | None = None,
    hosts: Iterable[str] | None = None,
) -> Guard:
    """Returns the server as an ASGI application.

    Args:
        backend: the backend.
        limits: the bounds of the server; None for the defaults.
        token: the bearer token that clients must send, or None.
        hosts: names by which the server may be called; None for any.

    Returns:
        The application, with its `Batcher` as the attribute `batcher`.
    """
    limits = ServerLimits() if limits is None else limits
    metrics = Metrics()
    batcher = Batcher(backend, limits, metrics)
    metrics.watch(batcher)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="kgen", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_error_handlers(app)
    _add_images(app, backend, limits, batcher)
    _add_models(app, backend, limits)
    _add_probes(app, backend, batcher, metrics)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    guard = Guard(app, metrics, token=token, hosts=hosts, max_bytes=limits.max_bytes)
    guard.batcher = batcher
    return guard


def _add_error_handlers(app: FastAPI) -> None:
    """Returns errors in the form of the images API."""

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        headers = {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        body = error_body(str(error), field=error.field, code=error.code, kind=kind)
        return JSONResponse(body, error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(
        request: Request, error: RequestValidationError | ValidationError
    ) -> JSONResponse:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"] if part != "body"]
        field = location[0] if location else None
        message = f"`{field}`: {first['msg']}" if field else first["msg"]
        return JSONResponse(error_body(message, field=field, code=first["type"]), 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail)), error.status_code, error.headers)


def _add_images(app: FastAPI, backend: Backend, limits: ServerLimits, batcher: Batcher) -> None:
    @app.post("/v1/images/generations")
    async def generations(body: Generation, request: Request) -> Response:
        """Generates pictures from a prompt."""
        check_model(body.model, backend)
        drawing = await asyncio.to_thread(drawing_of, body, backend, limits)
        return await _respond(request, ResponseBuilder(body, drawing, backend.describe), batcher)

    @app.post("/v1/images/edits")
    async def edits(request: Request) -> Response:
        """Edits a picture, all of it or the part that a mask selects; the body is a form."""
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
            raise RefusedError("The model cannot edit pictures.", field="image")
        for name in files:
            if name not in ("image", "mask"):
                raise RefusedError(f"`{name}` must not be a file.", field=name)
        if "image" not in files:
            raise RefusedError("`image` must be a picture file.", field="image")
        if body.size not in (None, "", "auto"):
            raise RefusedError("`size` must be auto, the size of the picture.", field="size")
        builder = await asyncio.to_thread(_edit_response, body, files, backend, limits)
        return await _respond(request, builder, batcher)


def _edit_response(
    body: Edit, files: Mapping[str, bytes], backend: Backend, limits: ServerLimits
) -> ResponseBuilder:
    """Returns the builder of the response to an edit.

    Args:
        body: the fields of the request.
        files: the uploaded `image` and perhaps `mask`.
        backend: the backend.
        limits: the bounds of the server.

    Raises:
        RefusedError: if a file or a field cannot be used.
    """
    picture = read_picture(files["image"], limits, "image")
    mask = small_mask = None
    if "mask" in files:
        mask = mask_of(read_picture(files["mask"], limits, "mask"), picture.size)
        small_mask = mask_for(mask, backend.shape)
    image = fitted(picture.pixels, backend.shape)
    drawing = drawing_of(body, backend, limits, image=image, mask=small_mask)
    return ResponseBuilder(body, drawing, backend.describe, picture, mask)


async def _respond(request: Request, builder: ResponseBuilder, batcher: Batcher) -> Response:
    """Submits a request to the batcher; returns the response, with all pictures or as a stream.

    Raises:
        RefusedError: if the queue is full, the backend fails, the time is over, or the client has
            closed the connection.
    """
    job = Job(builder.drawing)
    batcher.submit(job)
    if builder.request.stream:
        return StreamingResponse(
            _stream(request, builder, job, batcher),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    try:
        async with asyncio.timeout(batcher.limits.timeout):
            _, pictures = await _next_event(job, disconnected)
    except TimeoutError:
        raise _timeout_error(batcher) from None
    finally:
        disconnected.cancel()
        batcher.cancel(job)
    return JSONResponse(await asyncio.to_thread(builder.body, pictures))


async def _stream(
    request: Request, builder: ResponseBuilder, job: Job, batcher: Batcher
) -> AsyncIterator[bytes]:
    """Yields the events of a request: previews, and then the pictures or an error."""
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    index, until = 0, time.monotonic() + batcher.limits.timeout
    try:
        while True:
            if time.monotonic() >= until:
                raise _timeout_error(batcher)
            try:
                async with asyncio.timeout(min(KEEP_ALIVE, until - time.monotonic())):
                    kind, value = await _next_event(job, disconnected)
            except TimeoutError:
                yield b": waiting\n\n"
                continue
            if kind == "pictures":
                yield await asyncio.to_thread(builder.completed, value)
                return
            yield await asyncio.to_thread(builder.partial, *value, index)
            index += 1
    except RefusedError as error:
        if error.status != CLIENT_CLOSED:
            yield event("error", error_body(str(error), field=error.field, code=error.code))
    finally:
        disconnected.cancel()
        batcher.cancel(job)


async def _next_event(job: Job, disconnected: asyncio.Task) -> tuple[str, Any]:
    """Waits for the next event of a job; returns its kind and value.

    Args:
        job: the job.
        disconnected: a task that ends when the client has closed the connection.

    Raises:
        RefusedError: if the job failed, or the client has closed the connection.
    """
    waiting = asyncio.create_task(job.next_event())
    try:
        await asyncio.wait({waiting, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise RefusedError(
                "The client has closed the connection.", CLIENT_CLOSED, code="client_left"
            )
        kind, value = waiting.result()
    finally:
        waiting.cancel()
    if kind == "error":
        raise value
    return kind, value


async def _wait_for_disconnect(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _timeout_error(batcher: Batcher) -> RefusedError:
    message = f"The pictures were not finished within {batcher.limits.timeout:g} seconds."
    return RefusedError(message, 504, code="timeout")


def _add_models(app: FastAPI, backend: Backend, limits: ServerLimits) -> None:
    entry = {
        "id": backend.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "kgen",
        "takes": backend.condition_kind,
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

    @app.get("/v1/models", response_model=None)
    async def models() -> dict[str, Any]:
        """Lists the models of the server; there is one."""
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> dict[str, Any]:
        """Describes a model."""
        check_model(name, backend)
        return entry


def _add_probes(app: FastAPI, backend: Backend, batcher: Batcher, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        """Returns 200, or 500 if the warm-up failed and the process should be restarted."""
        if batcher.failed is not None:
            return JSONResponse({"status": "failed"}, 500)
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Returns 200 if the backend is warmed up and available, else 503."""
        if batcher.ready and await asyncio.to_thread(backend.available):
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, headers={"Retry-After": "1"})

    @app.get("/metrics")
    async def figures() -> Response:
        """Returns the metrics, in the text format of Prometheus."""
        content_type, text = metrics.text()
        return Response(text, media_type=content_type)

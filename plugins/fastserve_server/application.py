"""The ASGI application that every host runs: its endpoints and its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastserve_core.artifacts import MANIFEST, load_artifact
from fastserve_core.processes import threads_per_process
from fastserve_server import kserve, openai, pages, schemas
from fastserve_server.access_log import access_log
from fastserve_server.asgi import Dispatcher
from fastserve_server.auth import ApiKeyAuth
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.openapi import describe
from fastserve_server.options import ServingOptions
from fastserve_server.tracing import make_tracing
from fastserve_server.web import (
    Endpoint,
    await_or_disconnect,
    decode,
    models_of,
    read_body,
    reply,
    service_of,
)

MODEL_PARAMETER = "model"
"""In a query, the name of the model that a page is about."""


async def predict(request: Request) -> Response:
    asked = decode(schemas.PredictRequest, await read_body(request))
    service = service_of(request, asked.model)  # after the body: another model may have come meanwhile
    if len(asked.inputs) > service.options.max_inputs:
        raise HTTPException(
            413, f"{len(asked.inputs)} inputs are more than the {service.options.max_inputs} of one request"
        )
    answers = await await_or_disconnect(request, models_of(request).ask(service, asked.inputs, asked.options))
    return reply(schemas.PredictResponse(answers, service.name))


async def models(request: Request) -> Response:
    changed = {one.name: (one.artifact.folder / MANIFEST).stat().st_mtime for one in models_of(request)}
    return reply(schemas.ModelList([schemas.ModelCard(name, int(when)) for name, when in changed.items()]))


async def lineage(request: Request) -> Response:
    service = service_of(request, request.query_params.get(MODEL_PARAMETER))
    manifest = service.artifact.manifest
    return reply(
        schemas.LineageResponse(
            model=service.name,
            digest=service.artifact.digest,
            task=manifest.task,
            labels=list(manifest.labels),
            runtime=dict(manifest.runtime),
            lineage=[dict(entry) for entry in manifest.lineage],
            measures=dict(manifest.measures),
            files=dict(manifest.files),
        )
    )


async def candidate(request: Request) -> Response:
    beside = models_of(request).candidate
    if beside is None:
        raise HTTPException(404, "no candidate is beside the model: see the server's option 'candidate'")
    return reply(beside.status())


async def metrics(request: Request) -> Response:
    text, content_type = models_of(request).metrics.text(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})


async def openapi(request: Request) -> Response:
    return reply(_description(request))


async def docs(request: Request) -> Response:
    return pages.docs(_description(request))


def _description(request: Request) -> dict[str, Any]:
    return describe(ENDPOINTS, models_of(request).names, request.app.state.guarded)


async def home(request: Request) -> Response:
    service = service_of(request, request.query_params.get(MODEL_PARAMETER))
    return pages.home(service, models_of(request).names, request.app.state.guarded)


async def dashboard(request: Request) -> Response:
    return pages.dashboard(models_of(request).names, request.app.state.guarded)


ENDPOINTS = (
    Endpoint(
        "POST", "/predict", predict, "Answer texts with the model", schemas.PredictRequest, schemas.PredictResponse
    ),
    Endpoint("GET", "/v1/models", models, "The models, as OpenAI's API lists them", response_type=schemas.ModelList),
    Endpoint(
        "GET",
        "/lineage",
        lineage,
        "What a model was made from",
        response_type=schemas.LineageResponse,
        has_model_parameter=True,
    ),
    Endpoint(
        "GET",
        "/candidate",
        candidate,
        "How the candidate beside the model does",
        response_type=schemas.CandidateResponse,
        may_404=True,
    ),
    Endpoint("GET", "/metrics", metrics, "Prometheus metrics", response_type="text/plain"),
    Endpoint("GET", "/openapi.json", openapi, "This description", response_type="application/json"),
    Endpoint("GET", "/docs", docs, "This description as a page"),
    Endpoint("GET", "/dashboard", dashboard, "What the server does, as it goes on"),
    Endpoint("GET", "/", home, "A page to try a model", has_model_parameter=True),
    *openai.ENDPOINTS,
    *kserve.ENDPOINTS,
)


def build_application(
    artifact: Path, options: ServingOptions, threads: int | None = None, wait: bool = True, keys: Sequence[str] = ()
) -> Dispatcher:
    """The application for an artifact, and those of ``options.also``; its lifespan starts and stops the workers.

    ``keys`` are the hashes of API keys; without any, none is asked for. ``threads`` is what the workers together may
    use (the cores of this process when ``None``). With ``wait`` the startup lasts until the model is warm; without,
    requests get 503 until then.
    """
    log = access_log(options.access_log, f"{options.where}.access_log")
    traces = make_tracing(options.otlp_endpoint, f"{options.where}.otlp_endpoint")
    models = ModelRegistry(load_artifact(artifact), options, threads or threads_per_process())

    @asynccontextmanager
    async def lifespan(application: Dispatcher) -> AsyncIterator[None]:
        models.start()
        try:
            if wait:
                await models.wait_until_loaded()
            yield
        finally:
            await models.stop()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    return Dispatcher(ENDPOINTS, models, ApiKeyAuth(keys), log, traces, lifespan)

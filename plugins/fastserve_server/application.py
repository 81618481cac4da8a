"""ASGI application of all servers: its endpoints and its lifespan."""

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
from fastserve_server import kserve, pages, schemas
from fastserve_server.access_log import access_log
from fastserve_server.asgi import Dispatcher
from fastserve_server.auth import ApiKeyAuth
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.openapi import describe
from fastserve_server.options import ServingOptions
from fastserve_server.service import Service
from fastserve_server.task_routes import task_endpoints
from fastserve_server.tracing import make_tracing
from fastserve_server.web import (
    Endpoint,
    await_or_disconnect,
    check_num_inputs,
    decode,
    models_of,
    read_body,
    reply,
    service_of,
)

MODEL_PARAMETER = "model"
"""Query parameter with the name of a model."""


async def predict(request: Request) -> Response:
    """Answer inputs with a model."""
    body = decode(schemas.PredictRequest, await read_body(request))
    service = service_of(request, body.model)  # after the body: the model may have been replaced while it arrived
    check_num_inputs(service, len(body.inputs))
    if repeated := sorted(body.options.keys() & body.parameters.keys()):
        raise HTTPException(422, f"'{repeated[0]}' is in 'parameters' and in 'options': leave it out of one")
    parameters = {**body.options, **body.parameters}
    answers = await await_or_disconnect(request, models_of(request).predict(service, body.inputs, parameters))
    return reply(schemas.PredictResponse(answers, service.name))


async def models(request: Request) -> Response:
    """List the models, and those with an adapter."""
    return reply(schemas.ModelList([_model_card(service) for service in models_of(request).all]))


async def model(request: Request) -> Response:
    """Describe one model."""
    return reply(_model_card(service_of(request, request.path_params["model"])))


def _model_card(service: Service) -> schemas.ModelCard:
    return schemas.ModelCard(service.name, int((service.artifact.folder / MANIFEST).stat().st_mtime))


async def lineage(request: Request) -> Response:
    """Report how a model was made."""
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
    """Report the comparison of the candidate with the model."""
    deployment = models_of(request).candidate
    if deployment is None:
        raise HTTPException(404, "the server has no candidate: see its option 'candidate'")
    return reply(deployment.status())


async def metrics(request: Request) -> Response:
    """Return the Prometheus metrics."""
    text, content_type = models_of(request).metrics.text(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})


async def openapi(request: Request) -> Response:
    """Return the OpenAPI description."""
    return reply(_description(request))


async def docs(request: Request) -> Response:
    """Return the OpenAPI description as a page."""
    return pages.docs(_description(request))


def _description(request: Request) -> dict[str, Any]:
    tasks = {service.name: service.task for service in models_of(request)}
    return describe(request.app.state.endpoints, tasks, request.app.state.requires_key)


async def home(request: Request) -> Response:
    """Return the page to try a model."""
    service = service_of(request, request.query_params.get(MODEL_PARAMETER))
    names = [one.name for one in models_of(request).all]
    return pages.home(service, names, request.app.state.requires_key)


async def dashboard(request: Request) -> Response:
    """Return the page with live metrics."""
    return pages.dashboard(models_of(request).names, request.app.state.requires_key)


ENDPOINTS = (  # of every server; the tasks of its models add theirs
    Endpoint("POST", "/predict", predict, "Answer texts with a model", schemas.PredictRequest, schemas.PredictResponse),
    Endpoint("GET", "/v1/models", models, "List the models, in OpenAI's format", response_type=schemas.ModelList),
    Endpoint("GET", "/v1/models/{model}", model, "One of these models", response_type=schemas.ModelCard),
    Endpoint(
        "GET",
        "/lineage",
        lineage,
        "Report how a model was made",
        response_type=schemas.LineageResponse,
        has_model_parameter=True,
    ),
    Endpoint(
        "GET",
        "/candidate",
        candidate,
        "Compare the candidate with the model",
        response_type=schemas.CandidateResponse,
        may_404=True,
    ),
    Endpoint("GET", "/metrics", metrics, "Prometheus metrics", response_type="text/plain"),
    Endpoint("GET", "/openapi.json", openapi, "This description", response_type="application/json"),
    Endpoint("GET", "/docs", docs, "This description as a page"),
    Endpoint("GET", "/dashboard", dashboard, "Live metrics as a page"),
    Endpoint("GET", "/", home, "Page to try a model", has_model_parameter=True),
    *kserve.ENDPOINTS,
)


def build_application(
    artifact: Path, options: ServingOptions, threads: int | None = None, wait: bool = True, keys: Sequence[str] = ()
) -> Dispatcher:
    """Build the ASGI application for an artifact and the models of ``options.models``.

    Args:
        artifact: Folder of the first model's artifact.
        options: Options of the server.
        threads: Number of threads that the workers of a model may use together; ``None`` for the usable cores.
        wait: Whether the lifespan's startup waits until the models are loaded; if not, requests get 503 until then.
        keys: SHA-256 hashes of the API keys; without any, requests need no key.

    Returns:
        The application. Its lifespan starts and stops the workers.

    Raises:
        ArtifactError: An artifact is missing or damaged.
        OptionError: The access log cannot be written, an address is wrong, or two models have different routes at one
            path.
        PluginError: The route of a task is not valid.
        MissingPackageError: Tracing needs a package that is not installed.
    """
    log = access_log(options.access_log, f"{options.where}.access_log")
    tracing = make_tracing(options.otlp_endpoint, f"{options.where}.otlp_endpoint")
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
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    endpoints = (*ENDPOINTS, *task_endpoints(models, {endpoint.path for endpoint in ENDPOINTS}))
    return Dispatcher(endpoints, models, ApiKeyAuth(keys), log, tracing, lifespan)

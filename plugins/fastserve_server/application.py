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

from fastserve_core.artifacts.artifact import MANIFEST, load_artifact
from fastserve_core.processes.resources import threads_per_process
from fastserve_server import kserve, openai, pages, schemas
from fastserve_server.access import access_log
from fastserve_server.front import Front
from fastserve_server.hosted import Hosted
from fastserve_server.keys import Guard
from fastserve_server.openapi import describe
from fastserve_server.options import Serving
from fastserve_server.tracing import tracing
from fastserve_server.web import (
    Endpoint,
    decode,
    hosted,
    read_body,
    reply,
    service_of,
    while_connected,
)

CHOICE = "model"
"""In a query, the name of the model that a page is about."""


async def predict(request: Request) -> Response:
    asked = decode(schemas.PredictRequest, await read_body(request))
    service = service_of(request, asked.model)  # after the body: another model may have come meanwhile
    if len(asked.inputs) > service.options.max_inputs:
        raise HTTPException(
            413, f"{len(asked.inputs)} inputs are more than the {service.options.max_inputs} of one request"
        )
    answers = await while_connected(request, hosted(request).ask(service, asked.inputs, asked.options))
    return reply(schemas.PredictResponse(answers, service.name))


async def models(request: Request) -> Response:
    changed = {one.name: (one.artifact.folder / MANIFEST).stat().st_mtime for one in hosted(request)}
    return reply(schemas.ModelList([schemas.ModelCard(name, int(when)) for name, when in changed.items()]))


async def lineage(request: Request) -> Response:
    service = service_of(request, request.query_params.get(CHOICE))
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
    beside = hosted(request).candidate
    if beside is None:
        raise HTTPException(404, "no candidate is beside the model: see the server's option 'candidate'")
    return reply(beside.said())


async def metrics(request: Request) -> Response:
    text, content_type = hosted(request).metrics.text(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})


async def openapi(request: Request) -> Response:
    return reply(_description(request))


async def docs(request: Request) -> Response:
    return pages.docs(_description(request))


def _description(request: Request) -> dict[str, Any]:
    return describe(ENDPOINTS, hosted(request).names, request.app.state.guarded)


async def home(request: Request) -> Response:
    service = service_of(request, request.query_params.get(CHOICE))
    return pages.home(service, hosted(request).names, request.app.state.guarded)


async def dashboard(request: Request) -> Response:
    return pages.dashboard(hosted(request).names, request.app.state.guarded)


ENDPOINTS = (
    Endpoint(
        "POST", "/predict", predict, "Answer texts with the model", schemas.PredictRequest, schemas.PredictResponse
    ),
    Endpoint("GET", "/v1/models", models, "The models, as OpenAI's API lists them", gives=schemas.ModelList),
    Endpoint("GET", "/lineage", lineage, "What a model was made from", gives=schemas.LineageResponse, chooses=True),
    Endpoint(
        "GET",
        "/candidate",
        candidate,
        "How the candidate beside the model does",
        gives=schemas.CandidateResponse,
        may_lack=True,
    ),
    Endpoint("GET", "/metrics", metrics, "Prometheus metrics", gives="text/plain"),
    Endpoint("GET", "/openapi.json", openapi, "This description", gives="application/json"),
    Endpoint("GET", "/docs", docs, "This description as a page"),
    Endpoint("GET", "/dashboard", dashboard, "What the server does, as it goes on"),
    Endpoint("GET", "/", home, "A page to try a model", chooses=True),
    *openai.ENDPOINTS,
    *kserve.ENDPOINTS,
)


def build_application(
    artifact: Path, options: Serving, threads: int | None = None, wait: bool = True, keys: Sequence[str] = ()
) -> Front:
    """The application for an artifact, and those of ``options.also``; its lifespan starts and stops the workers.

    ``keys`` are the hashes of API keys; without any, none is asked for. ``threads`` is what the workers together may
    use (the cores of this process when ``None``). With ``wait`` the startup lasts until the model is warm; without,
    requests get 503 until then.
    """
    log = access_log(options.access_log, f"{options.where}.access_log")
    traces = tracing(options.traces, f"{options.where}.traces")
    models = Hosted(load_artifact(artifact), options, threads or threads_per_process())

    @asynccontextmanager
    async def lifespan(application: Front) -> AsyncIterator[None]:
        models.start()
        try:
            if wait:
                await models.loaded()
            yield
        finally:
            await models.stop()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    return Front(ENDPOINTS, models, Guard(keys), log, traces, lifespan)

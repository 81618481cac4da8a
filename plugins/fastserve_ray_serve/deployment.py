"""The application as a deployment of Ray Serve, for a separate Ray instance and for existing clusters.

On a cluster, Ray's own tools start it by the import path ``fastserve_ray_serve.deployment:build_app``:

    serve run fastserve_ray_serve.deployment:build_app artifact=/models/reviews replicas=2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application

from fastserve_core.artifacts import load_artifact
from fastserve_core.config import parse_options
from fastserve_core.errors import OptionError
from fastserve_core.processes import thread_environment
from fastserve_ray_serve.options import RayServeOptions
from fastserve_server.auth import key_hashes
from fastserve_server.model_registry import resolve_adapters, resolve_first, resolve_models


class Replica:
    """Hooks that Ray Serve calls in a replica, in addition to its application."""

    app: Any  # set by Ray

    async def reconfigure(self, user_config: Any) -> None:
        """Wait until the models are loaded: Ray reports an error here, but not one in a lifespan."""
        await self.app.state.models.wait_until_loaded()

    async def check_health(self) -> None:
        """Check that all models are ready; if not, Ray replaces the replica.

        Raises:
            RuntimeError: A model is not ready.
        """
        if not self.app.state.models.ready:
            raise RuntimeError(self.app.state.models.not_ready_reason())


def bind_application(
    artifact: Path,
    options: RayServeOptions,
    threads: int,
    keys: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Application:
    """Build the application that ``serve.run`` starts.

    Args:
        artifact: Folder of the artifact, which every node must see.
        options: Options of the server.
        threads: Number of threads of each replica.
        keys: Hashes of the API keys.
        environment: Environment variables of the replicas, if the process that started Ray does not have them.
    """
    deployment = ray_serve.deployment(
        ray_serve.ingress(app_builder(artifact, options, threads, keys))(Replica)
    ).options(
        name="model",
        **_num_replicas(options),
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config={"status_code": 429, "retry_after_s": 1.0},
        graceful_shutdown_timeout_s=options.drain_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=2.0,
        ray_actor_options={"num_cpus": threads}
        | ({"runtime_env": {"env_vars": dict(environment)}} if environment else {}),
        user_config={},
    )
    application: Application = deployment.bind()
    return application


def _num_replicas(options: RayServeOptions) -> dict[str, Any]:
    if options.max_replicas is None:
        return {"num_replicas": options.replicas}
    scaling = {
        "min_replicas": options.replicas,
        "max_replicas": options.max_replicas,
        "target_ongoing_requests": max(1, options.max_ongoing_requests // 2),
    }
    return {"num_replicas": None, "autoscaling_config": scaling}


def app_builder(artifact: Path, options: RayServeOptions, threads: int, keys: Sequence[str] = ()) -> Callable[[], Any]:
    """Return the function that Ray calls in each replica to build the ASGI application."""

    def build() -> Any:
        from fastserve_core.processes import set_library_environment
        from fastserve_server.application import build_application

        set_library_environment()
        use_own_connections()
        return build_application(artifact, options, threads, wait=False, keys=keys)

    return build


def use_own_connections() -> None:
    """Have the HTTP server that Ray starts in this process handle connections as the embedded server does.

    uvicorn writes the head and the body of a response separately. If a replica died between the two, the client would
    receive half of a response, which the proxy cannot request again from another replica.
    """
    from uvicorn.protocols.http import auto

    from fastserve_server.connections import TimeoutHttpProtocol

    auto.AutoHTTPProtocol = TimeoutHttpProtocol  # Ray has no option for it


def build_app(args: Mapping[str, Any]) -> Application:
    """Build the application for ``serve run`` and ``serve deploy``.

    Args:
        args: ``artifact``, a folder that every node sees, and options of the server. ``threads`` is per replica, 1 by
            default. The cluster's configuration sets the address and the port.

    Raises:
        ArtifactError: The artifact is missing or damaged.
        OptionError: An option is unknown or wrong.
    """
    remaining = dict(args)
    folder = remaining.pop("artifact", None)
    if folder is None:
        raise OptionError("args: artifact=FOLDER is missing, the artifact to serve")
    if misplaced := sorted({"host", "port"} & remaining.keys()):
        raise OptionError(f"args: {' and '.join(misplaced)} must be set in the cluster's http_options")
    options = parse_options(RayServeOptions, remaining, RayServeOptions.where)
    keys = key_hashes(options.api_keys_file, f"{options.where}.api_keys_file")
    threads = options.threads or 1
    threads_per_worker = max(1, threads // (options.workers or threads))
    models, adapters = resolve_models(options.models), resolve_adapters(options.adapters)
    artifact, options = resolve_first(Path(folder), replace(options, models=models, adapters=adapters))
    load_artifact(artifact, verify=True)
    return bind_application(artifact, options, threads, keys, thread_environment(threads_per_worker))

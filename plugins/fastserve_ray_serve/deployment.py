"""The application as a deployment of Ray Serve, for a Ray of our own and for clusters that others run.

On a cluster Ray's own tools start it, by the import path ``fastserve_ray_serve.deployment:build``:

    serve run fastserve_ray_serve.deployment:build artifact=/models/reviews replicas=2
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
from fastserve_core.errors import InvalidOption
from fastserve_core.processes import thread_environment
from fastserve_ray_serve.options import RayServeOptions
from fastserve_server.auth import key_hashes
from fastserve_server.model_registry import resolve_models


class Replica:
    """What Ray Serve asks of a replica beside its application."""

    app: Any  # set by Ray

    async def reconfigure(self, user_config: Any) -> None:
        """Wait for a warm model, before requests come; an error here reaches the caller, one in a lifespan does not."""
        await self.app.state.hosted.wait_until_loaded()

    async def check_health(self) -> None:
        """A replica whose engine broke is replaced."""
        if not self.app.state.hosted.ready:
            raise RuntimeError(self.app.state.hosted.not_ready_reason())


def bind_application(
    artifact: Path,
    options: RayServeOptions,
    threads: int,
    keys: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Application:
    """What ``serve.run`` takes: replicas of ``threads`` each, as many as the options say.

    ``environment`` is for replicas that do not have it from the process that started Ray.
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
    """What Ray calls in each replica to make its application."""

    def build() -> Any:
        from fastserve_core.processes import library_environment
        from fastserve_server.application import build_application

        library_environment()
        return build_application(artifact, options, threads, wait=False, keys=keys)

    return build


def build_app(args: Mapping[str, Any]) -> Application:
    """For ``serve run`` and ``serve deploy``: ``artifact``, a folder that every node sees, and the server's options.

    ``threads`` are those of a replica, 1 when not given. The cluster's own config has the address and the port.
    Raises ``InvalidOption``, or ``InvalidArtifact`` for what is none or was altered.
    """
    given = dict(args)
    folder = given.pop("artifact", None)
    if folder is None:
        raise InvalidOption("args: artifact=FOLDER is missing, the artifact to serve")
    if elsewhere := sorted({"host", "port"} & given.keys()):
        raise InvalidOption(f"args: {' and '.join(elsewhere)} stand in the cluster's http_options, not here")
    options = parse_options(RayServeOptions, given, RayServeOptions.where)
    keys = key_hashes(options.api_keys_file, f"{options.where}.api_keys_file")
    threads = options.threads or 1
    each = max(1, threads // (options.workers or threads))
    artifact = load_artifact(Path(folder), verify=True).folder
    options = replace(options, models=resolve_models(options.models))
    return bind_application(artifact, options, threads, keys, thread_environment(each))

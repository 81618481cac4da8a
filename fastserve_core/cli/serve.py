"""``fastserve serve ARTIFACT [ANOTHER …] [option=value …]``: serve models until a signal."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import is_artifact
from fastserve_core.artifacts.locate import find_artifact, parse_named_path
from fastserve_core.cli.arguments import make_parser
from fastserve_core.errors import OptionError
from fastserve_core.serving.serve import ArtifactResolvers, serve_until_signal, start_server

HELP = """more models to serve, each a RUN_OR_ARTIFACT or NAME:RUN_OR_ARTIFACT; and options of the server,
e.g. port=9000 host=0.0.0.0 (see 'fastserve +plugin=server --cfg job')"""


def main(arguments: Sequence[str]) -> int:
    """Serve models until a signal; return the exit code."""
    parser = make_parser("serve", "Serve an artifact, or a run's best one, until Ctrl-C or SIGTERM.")
    parser.add_argument("model", metavar="RUN_OR_ARTIFACT")
    parser.add_argument("more", nargs="*", metavar="MODEL or option=value", help=HELP)
    parser.add_argument("--plugin", default="server", help="the server plugin, e.g. 'server' or 'ray_serve'")
    args = parser.parse_intermixed_args(arguments)
    if hasattr(signal, "SIGUSR1"):  # it reloads the model; ignored until the server has started
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    models = [argument for argument in args.more if "=" not in argument or Path(argument).is_dir()]
    prefix = f"serve.{args.plugin}."
    options = dict(_parse_option(argument, prefix) for argument in args.more if argument not in models)
    name, first = parse_named_path(args.model)
    if models:
        options["models"] = [*options["models"], *models] if isinstance(options.get("models"), list) else models
    given = name != first.name or (first.is_symlink() and is_artifact(first))
    if "models" in options or given:  # the user's names rather than those of folders in the store
        options = {"name": name} | options
    for model in models:
        path = parse_named_path(model)[1]
        if not path.exists():
            raise OptionError(f"'{model}' is neither option=value nor a model: {path} does not exist")
    server = start_server(find_artifact(first), args.plugin, options)
    resolvers: ArtifactResolvers = {
        name: partial(find_artifact, folder) for name, folder in map(parse_named_path, options.get("models", []))
    }
    names = " and ".join([str(args.model), *map(str, options.get("models", []))])
    serve_until_signal(server, names, {None: partial(find_artifact, first), **resolvers})
    return 0


def _parse_option(argument: str, prefix: str) -> tuple[str, Any]:
    """Parse ``name=value``; the value is YAML, and the name may begin as it does in a run.

    Raises:
        OptionError: The value is not YAML, or a reference (``${…}``) that has no end.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    name, _, text = argument.partition("=")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload, index]
    except (YAMLError, OmegaConfBaseException) as error:
        reason = str(getattr(error, "problem", None) or error).partition("\n")[0]
        raise OptionError(f"{argument} has a value that cannot be read ({reason}): quote it, {name}='\"…\"'") from error
    # "-" is a list in YAML, but a name here
    return name.removeprefix(prefix), text if value == [None] or isinstance(value, dict) else value

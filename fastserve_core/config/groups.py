"""The groups of Hydra configs, FastServe's own and those of installed plugins, and their choices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import expand_user
from fastserve_core.config.overrides import extend_grammar, quote, quote_value
from fastserve_core.entry_points import package_config_dirs
from fastserve_core.errors import ErrorCollector, OptionError, UnknownNameError

GROUPS = ("plugin", "experiment", "model", "data", "task")


def config_dir() -> Path:
    """Return the folder of FastServe's configs: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).parent.parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def config_dirs() -> list[Path]:
    """Return the folders of FastServe's configs and of those of every installed package that has some."""
    return [config_dir(), *dict.fromkeys(package_config_dirs())]


def register_plugin_configs() -> None:
    """Add the plugins' folders to Hydra's search path, in this process.

    A ``hydra_plugins`` package would do so for every Hydra application in the environment.
    """
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class PluginConfigs(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in config_dirs()[1:]:
                search_path.append(provider=f"plugin-{folder.parent.name}", path=f"file://{folder}")

    Plugins.instance().register(PluginConfigs)


def group_choices(group: str, extra: Sequence[Path] = ()) -> list[str]:
    """List the choices of a group.

    Args:
        group: The group.
        extra: Further folders of configs.
    """
    return sorted({path.stem for folder in [*config_dirs(), *extra] for path in (folder / group).glob("*.yaml")})


def find_config(group: str, name: str) -> Path | None:
    """Return the file of a choice, or ``None``."""
    files = (folder / group / f"{name}.yaml" for folder in config_dirs())
    return next((path for path in files if path.is_file()), None)


def default_choice(group: str) -> str:
    """Return the choice of ``config.yaml`` for a group."""
    from omegaconf import OmegaConf

    defaults: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "config.yaml"))
    return str(next(entry[group] for entry in defaults["defaults"] if isinstance(entry, dict) and group in entry))


def check_choices(overrides: list[str]) -> list[str]:
    """Check the choices of groups, and expand ``model=FOLDER``, ``model=org/name`` and ``data=FILE``.

    Args:
        overrides: Hydra's overrides.

    Returns:
        The overrides with such choices expanded, and with values in quotes if Hydra needs them.

    Raises:
        UserError: A choice does not exist; the message has "did you mean".
        ValidationError: Several do not.
    """
    errors, result = ErrorCollector(), list[str]()
    extra = _user_config_dirs(overrides)
    extend_grammar()
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key.lstrip("+") in GROUPS:
            with errors.collect():
                result += _check_group_choice(key, value, extra)
        else:
            with errors.collect():
                result.append(quote_value(override))
    errors.raise_if_any()
    return result


def _user_config_dirs(overrides: list[str]) -> list[Path]:
    """Return the folders of Hydra's flag ``--config-dir``."""
    folders = [override.partition("=")[2] for override in overrides if override.startswith("--config-dir=")]
    folders += [value for flag, value in pairwise(overrides) if flag in ("--config-dir", "-cd")]
    return [expand_user(folder) for folder in folders]


def _check_group_choice(key: str, value: str, extra: list[Path]) -> list[str]:
    group = key.lstrip("+")
    known = group_choices(group, extra)
    if group in ("model", "data") and value and value not in known and expand_user(value).exists():
        return _resolve_path(group, value, known)  # whatever characters it has
    names = [name.strip().strip("'\"") for name in value.strip("[]").split(",") if name.strip()]
    if not names:
        raise OptionError(f"{key}= has no value (known: {', '.join(known)})")
    if group in ("model", "data") and len(names) == 1 and names[0] not in known:
        return _resolve_path(group, names[0], known)
    if group in ("plugin", "experiment") and not key.startswith("+"):
        raise OptionError(f"write +{key}={value}: a {group} is added to the config")
    unknown = [name for name in names if name not in known]
    if unknown and group in ("model", "data") and any("/" in name or "." in name for name in unknown):
        expanded = "model=checkpoint model.path=A,B" if group == "model" else "data=files data.train=A,B"
        raise OptionError(f"a sweep over paths is written {expanded}, not {key}={value}")
    if unknown:
        raise UnknownNameError("config in the group model" if group == "model" else group, unknown[0], known)
    return [f"{key}={value}"]


def _resolve_path(group: str, value: str, known: list[str]) -> list[str]:
    path = expand_user(value)
    if group == "data" and (path.suffix or "/" in value or path.exists()):
        return ["data=files", f"data.train={quote(value)}"]
    if group == "model" and (path.is_dir() or value.startswith((".", "/", "~"))):
        return ["model=checkpoint", f"model.path={quote(value)}"]
    if group == "model" and value.count("/") == 1:
        return ["model=hub", f"model.name={quote(value)}"]
    raise UnknownNameError(group, value, known, advice=", or a path")

"""Where the Hydra configs are, FastServe's own and those of installed plugins, and what can be chosen in them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fastserve_core.entry_points import package_config_dirs
from fastserve_core.errors import ErrorCollector, InvalidOption, UnknownName

GROUPS = ("plugin", "experiment", "model", "data", "task")


def config_dir() -> Path:
    """FastServe's configs: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).parent.parent
    packaged = here / "conf"
    return packaged if packaged.is_dir() else here.parent / "conf"


def config_dirs() -> list[Path]:
    """Return the folders of FastServe's configs and of those of every installed package that has some."""
    return [config_dir(), *dict.fromkeys(package_config_dirs())]


def register_plugin_configs() -> None:
    """Add the plugins' folders to Hydra's search path, for this process only.

    A ``hydra_plugins`` package would do it for every Hydra application of the environment.
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
    """The names that a group offers."""
    return sorted({path.stem for folder in [*config_dirs(), *extra] for path in (folder / group).glob("*.yaml")})


def find_config(group: str, name: str) -> Path | None:
    """The file of one choice, or ``None``."""
    files = (folder / group / f"{name}.yaml" for folder in config_dirs())
    return next((path for path in files if path.is_file()), None)


def default_choice(group: str) -> str:
    """Return what ``config.yaml`` chooses for a group."""
    from omegaconf import OmegaConf

    defaults: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "config.yaml"))
    return str(next(entry[group] for entry in defaults["defaults"] if isinstance(entry, dict) and group in entry))


def check_choices(overrides: list[str]) -> list[str]:
    """Hydra's overrides with ``model=FOLDER``, ``model=org/name`` and ``data=FILE`` spelt out.

    Every choice that does not exist is a fault with "did you mean"; all are raised together.
    """
    faults, result = ErrorCollector(), list[str]()
    extra = _own_dirs(overrides)
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key.lstrip("+") in GROUPS:
            with faults.collect():
                result += _check_group_choice(key, value, extra)
        else:
            result.append(override)
    faults.raise_if_any()
    return result


def _own_dirs(overrides: list[str]) -> list[Path]:
    """The folder that the user gives with Hydra's ``--config-dir``."""
    found = [one.partition("=")[2] for one in overrides if one.startswith("--config-dir=")]
    found += [after for flag, after in pairwise(overrides) if flag in ("--config-dir", "-cd")]
    return [Path(one).expanduser() for one in found]


def _check_group_choice(key: str, value: str, extra: list[Path]) -> list[str]:
    group = key.lstrip("+")
    known = group_choices(group, extra)
    names = [one.strip().strip("'\"") for one in value.strip("[]").split(",") if one.strip()]
    if not names:
        raise InvalidOption(f"{key}= names nothing (known: {', '.join(known)})")
    if group in ("model", "data") and len(names) == 1 and names[0] not in known:
        return _path_choice(group, names[0], known)
    if group in ("plugin", "experiment") and not key.startswith("+"):
        raise InvalidOption(f"write +{key}={value}: a {group} is added to the config")
    strangers = [name for name in names if name not in known]
    if strangers and group in ("model", "data") and any("/" in name or "." in name for name in strangers):
        longer = "model=checkpoint model.path=A,B" if group == "model" else "data=files data.train=A,B"
        raise InvalidOption(f"a sweep over paths is written {longer}, not {key}={value}")
    if strangers:
        raise UnknownName("config in the group model" if group == "model" else group, strangers[0], known)
    return [f"{key}={value}"]


def _path_choice(group: str, value: str, known: list[str]) -> list[str]:
    path = Path(value).expanduser()
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if group == "data" and (path.suffix or "/" in value):
        return ["data=files", f"data.train={quoted}"]
    if group == "model" and (path.is_dir() or value.startswith((".", "/", "~"))):
        return ["model=checkpoint", f"model.path={quoted}"]
    if group == "model" and value.count("/") == 1:
        return ["model=hub", f"model.name={quoted}"]
    raise UnknownName(group, value, known, advice=", or a path")

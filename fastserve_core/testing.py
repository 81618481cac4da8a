"""The contract that every plugin meets; a plugin's tests subclass ``PluginContract``.

::

    from fastserve_core.testing import PluginContract

    class TestToy(PluginContract):
        plugin, stage = "toy", "compress"
"""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omegaconf import OmegaConf

from fastserve_core.config.groups import config_dir
from fastserve_core.config.options import parse_options
from fastserve_core.entry_points import PluginEntry, installed_plugins
from fastserve_core.errors import InvalidOption, did_you_mean
from fastserve_core.plugins.base import BASES, Compressor, Plugin
from fastserve_core.plugins.hookspecs import API_VERSION, OBSERVE, PROJECT_NAME, STAGES, Hooks
from fastserve_core.plugins.registry import CONFIG_SECTIONS, Registry

HEAVY_IMPORTS = frozenset(
    {"torch", "ray", "transformers", "neural_compressor", "nevergrad", "datasets", "openvino", "tensorflow"}
)
FORMS = ("trainable", "engine")


class PluginContract:
    """Subclass with the plugin's entry-point name and the stage that it fills (or ``observe``)."""

    plugin: ClassVar[str]
    stage: ClassVar[str]

    @pytest.fixture
    def entry(self) -> PluginEntry:
        entry = installed_plugins().get(self.plugin)
        assert entry, f"no entry point '{self.plugin}' in the group fastserve.plugins: is the package installed?"
        return entry

    @pytest.fixture
    def kind(self, entry: PluginEntry) -> Any:
        return entry.entry_point.load()

    @pytest.fixture
    def config(self, entry: PluginEntry) -> Path:
        folders = [folder for folder in (entry.config_dir, config_dir()) if folder]
        files = [file for folder in folders if (file := folder / "plugin" / f"{self.plugin}.yaml").is_file()]
        assert files, f"no conf/plugin/{self.plugin}.yaml in {' or '.join(map(str, folders))}"
        return files[0]

    @pytest.fixture
    def requirements(self, kind: Any) -> None:
        for module in kind.requires:
            pytest.importorskip(module)

    def test_the_stage_exists(self) -> None:
        assert self.stage in CONFIG_SECTIONS

    def test_it_declares_the_api_it_is_built_for(self, kind: Any) -> None:
        assert kind.api_version == API_VERSION

    def test_its_options_are_a_dataclass_with_defaults(self, kind: Any) -> None:
        made = kind.Options()
        assert dataclasses.is_dataclass(made), "Options must be a dataclass"

    def test_its_options_have_types_that_a_config_can_hold(self, kind: Any) -> None:
        OmegaConf.structured(kind.Options)

    def test_its_config_goes_to_its_own_place(self, config: Path) -> None:
        first = config.read_text(encoding="utf-8").partition("\n")[0]
        assert first == f"# @package {self.stage}.{self.plugin}"

    def test_its_config_and_its_options_agree(self, kind: Any, config: Path) -> None:
        values = OmegaConf.to_container(OmegaConf.load(config)) or {}
        assert values == dataclasses.asdict(kind.Options())

    def test_it_derives_from_the_base_of_its_stage(self, kind: Any) -> None:
        assert issubclass(kind, BASES[self.stage])

    def test_it_declares_no_attribute_that_nobody_reads(self, kind: Any) -> None:
        """A misspelt attribute would silently leave the default; what is the plugin's own begins with ``_``."""
        bases = (BASES[self.stage], Plugin, Hooks)
        known = {name for base in bases for name in (*vars(base), *inspect.get_annotations(base))}
        known = {name for name in known if not name.startswith("_")}
        own = {name for base in kind.__mro__ if base not in (*BASES.values(), Plugin, object) for name in vars(base)}
        strangers = sorted(name for name in own - known if not name.startswith("_"))
        assert not strangers, f"the core reads no attribute '{strangers[0]}'{did_you_mean(strangers[0], known)}"

    def test_it_compares_by_identity(self, kind: Any) -> None:
        assert kind.__hash__ is object.__hash__, "a dataclass plugin needs eq=False"

    def test_its_verb_takes_what_the_hook_gives(self, kind: Any) -> None:
        given = set(inspect.signature(getattr(Hooks, self.stage)).parameters)
        taken = set(inspect.signature(getattr(kind, self.stage)).parameters)
        assert taken <= given, f"'{self.stage}' is given {sorted(given)}, and takes {sorted(taken)}"

    def test_it_activates_with_its_defaults(self, requirements: None) -> None:
        active = Registry().activate(self.stage, self.plugin, {})
        assert active.name == self.plugin

    def test_it_refuses_an_unknown_option(self, requirements: None) -> None:
        with pytest.raises(InvalidOption, match="no_such_option"):
            Registry().activate(self.stage, self.plugin, {"no_such_option": 1})

    def test_it_refuses_a_wrong_type(self, kind: Any) -> None:
        numbers = [one.name for one in dataclasses.fields(kind.Options) if one.type in ("int", "float", int, float)]
        for name in numbers:
            with pytest.raises(InvalidOption, match=name):
                parse_options(kind.Options, {name: "no number"}, f"{self.stage}.{self.plugin}")

    def test_its_form_is_declared_rightly(self, kind: Any) -> None:
        if issubclass(kind, Compressor):
            takes, gives = kind.form
            assert takes in FORMS
            assert gives in FORMS

    def test_what_it_leaves_out_of_its_key_are_options(self, kind: Any) -> None:
        left_out = {*kind.not_in_key, *kind.reads_files, *kind.reads_artifacts}
        assert left_out <= {one.name for one in dataclasses.fields(kind.Options)}

    def test_importing_it_loads_nothing_heavy(self, entry: PluginEntry) -> None:
        module, _, name = entry.entry_point.value.partition(":")
        code = f"import sys; from {module} import {name.partition('.')[0]}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, "importing a plugin prints nothing"
        assert not HEAVY_IMPORTS & set(done.stdout.split()), "heavy imports belong inside a verb"

    def test_it_fills_the_stage_and_no_other(self, kind: Any) -> None:
        marks = {stage: getattr(getattr(kind, stage, None), f"{PROJECT_NAME}_impl", None) for stage in STAGES}
        filled = [stage for stage, mark in marks.items() if mark and not mark["wrapper"]]
        wanted = [] if self.stage == OBSERVE else [self.stage]
        assert filled == wanted, f"it implements {filled or 'no stage'}: is @hookimpl missing?"

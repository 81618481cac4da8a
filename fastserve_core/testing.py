"""The contract test of plugins: a plugin's tests subclass ``PluginContract``.

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
from fastserve_core.errors import OptionError, did_you_mean
from fastserve_core.plugins.base import BASES, Compressor, Plugin
from fastserve_core.plugins.hookspecs import API_VERSION, OBSERVE, PROJECT_NAME, STAGES, Hooks
from fastserve_core.plugins.registry import CONFIG_SECTIONS, Registry

HEAVY_IMPORTS = frozenset(
    {"torch", "ray", "transformers", "neural_compressor", "nevergrad", "datasets", "openvino", "tensorflow"}
)
FORMS = ("trainable", "engine")
NUMERIC_TYPES = ("int", "float", int, float)


class PluginContract:
    """The contract test; a subclass sets the class attributes.

    Attributes:
        plugin: The name of the plugin's entry point.
        stage: The plugin's stage, or ``observe``.
    """

    plugin: ClassVar[str]
    stage: ClassVar[str]

    @pytest.fixture
    def entry(self) -> PluginEntry:
        """Return the plugin's entry point."""
        entry = installed_plugins().get(self.plugin)
        assert entry, f"no entry point '{self.plugin}' in the group fastserve.plugins: is the package installed?"
        return entry

    @pytest.fixture
    def kind(self, entry: PluginEntry) -> Any:
        """Return the plugin's class."""
        return entry.entry_point.load()

    @pytest.fixture
    def config(self, entry: PluginEntry) -> Path:
        """Return the plugin's config file."""
        folders = [folder for folder in (entry.config_dir, config_dir()) if folder]
        files = [file for folder in folders if (file := folder / "plugin" / f"{self.plugin}.yaml").is_file()]
        assert files, f"no conf/plugin/{self.plugin}.yaml in {' or '.join(map(str, folders))}"
        return files[0]

    @pytest.fixture
    def requirements(self, kind: Any) -> None:
        """Skip the test if a required module is not installed."""
        for module in kind.requires:
            pytest.importorskip(module)

    def test_the_stage_exists(self) -> None:
        """The stage is a section of the config."""
        assert self.stage in CONFIG_SECTIONS

    def test_it_declares_the_api_version(self, kind: Any) -> None:
        """``api_version`` is the current version of the plugin API."""
        assert kind.api_version == API_VERSION

    def test_its_options_are_a_dataclass_with_defaults(self, kind: Any) -> None:
        """``Options`` is a dataclass whose fields all have defaults."""
        options = kind.Options()
        assert dataclasses.is_dataclass(options), "Options must be a dataclass"

    def test_its_options_have_supported_types(self, kind: Any) -> None:
        """OmegaConf supports the types of the options."""
        OmegaConf.structured(kind.Options)

    def test_its_config_is_in_its_section(self, config: Path) -> None:
        """The config's first line puts it into the plugin's section."""
        first = config.read_text(encoding="utf-8").partition("\n")[0]
        assert first == f"# @package {self.stage}.{self.plugin}"

    def test_its_config_and_its_options_agree(self, kind: Any, config: Path) -> None:
        """The config has the defaults of ``Options``."""
        values = OmegaConf.to_container(OmegaConf.load(config)) or {}
        assert values == dataclasses.asdict(kind.Options())

    def test_it_derives_from_the_base_of_its_stage(self, kind: Any) -> None:
        """The class derives from the base class of its stage."""
        assert issubclass(kind, BASES[self.stage])

    def test_it_declares_no_unknown_attribute(self, kind: Any) -> None:
        """The class declares no public attribute that the core does not read, such as a misspelt one."""
        bases = (BASES[self.stage], Plugin, Hooks)
        known = {name for base in bases for name in (*vars(base), *inspect.get_annotations(base))}
        known = {name for name in known if not name.startswith("_")}
        own = {name for base in kind.__mro__ if base not in (*BASES.values(), Plugin, object) for name in vars(base)}
        unknown = sorted(name for name in own - known if not name.startswith("_"))
        assert not unknown, f"the core reads no attribute '{unknown[0]}'{did_you_mean(unknown[0], known)}"

    def test_it_compares_by_identity(self, kind: Any) -> None:
        """The class has the default hash, which the registry needs."""
        assert kind.__hash__ is object.__hash__, "a dataclass plugin needs eq=False"

    def test_its_verb_matches_the_hook_specification(self, kind: Any) -> None:
        """The verb has no other parameters than its hook specification."""
        specified = set(inspect.signature(getattr(Hooks, self.stage)).parameters)
        declared = set(inspect.signature(getattr(kind, self.stage)).parameters)
        assert declared <= specified, f"'{self.stage}' has the parameters {sorted(specified)}, not {sorted(declared)}"

    def test_it_activates_with_its_defaults(self, requirements: None) -> None:
        """The plugin can be activated with its default options."""
        active = Registry().activate(self.stage, self.plugin, {})
        assert active.name == self.plugin

    def test_it_refuses_an_unknown_option(self, requirements: None) -> None:
        """An unknown option is an error."""
        with pytest.raises(OptionError, match="no_such_option"):
            Registry().activate(self.stage, self.plugin, {"no_such_option": 1})

    def test_it_refuses_a_wrong_type(self, kind: Any) -> None:
        """A value of the wrong type is an error."""
        numeric = [field.name for field in dataclasses.fields(kind.Options) if field.type in NUMERIC_TYPES]
        for name in numeric:
            with pytest.raises(OptionError, match=name):
                parse_options(kind.Options, {name: "not a number"}, f"{self.stage}.{self.plugin}")

    def test_its_form_is_valid(self, kind: Any) -> None:
        """A compressor's ``form`` has valid values."""
        if issubclass(kind, Compressor):
            assert set(kind.form) <= set(FORMS)

    def test_its_special_options_exist(self, kind: Any) -> None:
        """``not_in_key``, ``reads_files`` and ``reads_artifacts`` name options."""
        names = {*kind.not_in_key, *kind.reads_files, *kind.reads_artifacts}
        assert names <= {field.name for field in dataclasses.fields(kind.Options)}

    def test_its_import_is_light(self, entry: PluginEntry) -> None:
        """Importing the class imports no heavy package and prints nothing."""
        module, _, name = entry.entry_point.value.partition(":")
        code = f"import sys; from {module} import {name.partition('.')[0]}; print(*sys.modules)"
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("\n") == 1, "importing a plugin prints nothing"
        assert not HEAVY_IMPORTS & set(process.stdout.split()), "heavy imports belong inside a verb"

    def test_it_implements_its_stage_only(self, kind: Any) -> None:
        """The class implements the verb of its stage and no other one."""
        marks = {stage: getattr(getattr(kind, stage, None), f"{PROJECT_NAME}_impl", None) for stage in STAGES}
        implemented = [stage for stage, mark in marks.items() if mark and not mark["wrapper"]]
        expected = [] if self.stage == OBSERVE else [self.stage]
        assert implemented == expected, f"it implements {implemented or 'no stage'}: is @hookimpl missing?"

"""The contract suite itself: it passes what fits, wrappers too, and fails what does not."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_core import hookimpl
from fastserve_core.plugins import Compressor
from fastserve_core.testing import PluginContract


class Watcher:
    """An observer that surrounds a verb."""

    @hookimpl
    def observe(self, event: Any) -> None:
        """Nothing to see."""

    @hookimpl(wrapper=True)
    def train(self, run: Any) -> Any:
        return (yield)


class Forgotten:
    """Its author forgot the mark."""

    def compress(self, run: Any) -> Any:
        return run


class ValueLike:
    __hash__ = None  # type: ignore[assignment]


def contract(stage: str) -> PluginContract:
    suite = PluginContract()
    suite.stage = stage  # type: ignore[misc]
    return suite


def test_an_observer_may_wrap_a_verb() -> None:
    contract("observe").test_it_implements_its_stage_only(Watcher)


def test_a_forgotten_mark_and_a_wrong_stage_are_noticed() -> None:
    with pytest.raises(AssertionError, match="hookimpl missing"):
        contract("compress").test_it_implements_its_stage_only(Forgotten)
    with pytest.raises(AssertionError):
        contract("train").test_it_implements_its_stage_only(Watcher)


def test_a_plugin_that_compares_by_value_is_noticed() -> None:
    with pytest.raises(AssertionError, match="eq=False"):
        contract("train").test_it_compares_by_identity(ValueLike)


def test_a_stage_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AssertionError):
        contract("trane").test_the_stage_exists()


class Misspelt(Compressor):
    """Its author meant ``wants_training``."""

    wants_trainin = True


class Private(Compressor):
    """What is its own begins with an underscore."""

    trains = True
    _rows = 8

    def _read(self) -> None:
        """Its own."""


def test_an_attribute_that_nobody_reads_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no attribute 'wants_trainin'; did you mean 'wants_training'"):
        contract("compress").test_it_declares_no_unknown_attribute(Misspelt)
    contract("compress").test_it_declares_no_unknown_attribute(Private)


def test_a_class_without_its_base_is_noticed() -> None:
    with pytest.raises(AssertionError):
        contract("train").test_it_derives_from_the_base_of_its_stage(Misspelt)

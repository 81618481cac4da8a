"""The plugin fits, and its options are checked."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_core.config import parse_options
from fastserve_core.errors import OptionError, ValidationError
from fastserve_core.testing import PluginContract
from fastserve_server.options import ServerOptions


class TestServer(PluginContract):
    plugin, stage = "server", "serve"


@pytest.mark.parametrize(
    ("option", "value"),
    [("workers", 0), ("max_batch", 0), ("max_delay_ms", -1.0), ("max_inputs", 0), ("max_windows", 0), ("port", 65536),
     ("port", -1), ("drain_s", -1.0), ("request_timeout_s", 0.0), ("max_body_bytes", 0), ("max_new_tokens", 0),
     ("name", "a/b"), ("scheduler", "fifo"), ("kv_cache_mb", 0)],
)  # fmt: skip
def test_an_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"serve\.server\.{option}") as refused:
        ServerOptions(**{option: value})
    assert str(value) in str(refused.value)


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(ValidationError, match=r"(?s)max_batch.*port"):
        ServerOptions(max_batch=0, port=-1)


def test_a_request_that_could_never_wait_is_refused() -> None:
    with pytest.raises(OptionError, match="the queue has no room"):
        ServerOptions(max_queue=10, max_inputs=11)


@pytest.mark.parametrize("value", ["truncate", "cut"])
def test_truncation_is_true_or_false(value: Any) -> None:
    assert parse_options(ServerOptions, {"truncation": False}, "serve.server").truncation is False
    with pytest.raises(OptionError, match="truncation"):
        parse_options(ServerOptions, {"truncation": value}, "serve.server")

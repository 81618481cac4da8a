"""Values of the command line: texts of any script and with any signs reach their options unchanged."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fastserve_core.config.groups import check_choices
from fastserve_core.config.options import resolve_interpolations
from fastserve_core.config.overrides import INTERPOLATION, format_argument, quote
from fastserve_core.errors import FastServeError, OptionError

SIGNS = ["(", ")", "(1)", "=", "'", "&", "~", " ", "$", "{", "}", "[", "]", ":", ";", "#", "!", "<", ">", "^", "`", "|"]
WORDS = [
    "评论",
    "列",
    "ラベル",
    "é",
    "😀",
    "，",
    "\u00a0",
    "a",
    "b-c",
    "text",
    "/",
    ".csv",
    "007",
    "1e3",
    "yes",
    "true",
]
texts = st.lists(st.sampled_from(SIGNS + WORDS), min_size=1, max_size=8).map("".join)
labels = st.lists(st.sampled_from(["差评", "好", "(1)", "=", "&", "~", "$", "#", "é", "x", " ", "'s"]), min_size=1).map(
    "".join
)


def read(override: str) -> Any:
    """Return the value that a run receives for an option of the command line."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(check_choices([override])[0])
    assert not parsed.is_sweep_override()
    return resolve_interpolations(OmegaConf.create({"option": parsed.value()})).option


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text != "???"))
@example("\\")
@example('a\\"b\\\\')
@example("${a}\\${b")
def test_a_quoted_text_is_read_as_it_is(text: str) -> None:
    assert read(f"serve.server.name={quote(text)}") == text
    (argument,) = shlex.split(format_argument("data.train", text))
    assert read(argument) == text


@pytest.mark.slow(1)
@given(texts)
@example("a,b(1)".replace(",", "，"))
@example("~/评论 (1).csv")
@example("it's=${.csv")
@example("[评论]")
@example("{a: 1}")
@example("true")
@example("1_000")
def test_a_text_option_is_read_as_it_is_typed(text: str) -> None:
    assume(not text.lstrip().startswith("'") and not INTERPOLATION.search(text))  # quoted, or a reference
    for option in ("data.columns.text", "data.columns.评论", "data.train", "model.path"):
        if option != "model.path" and text.startswith("[") and text.endswith("]"):
            continue  # a list of files or of columns
        assert read(f"{option}={text}") == text


@given(texts)
def test_a_text_option_of_a_plugin_is_read_as_it_is_typed(text: str) -> None:
    """The core does not know which options of plugins are texts, so numbers and lists keep their meaning."""
    assume(not text.lstrip().startswith(("'", "[", "{")) and not INTERPOLATION.search(text) and text == text.strip())
    value = read(f"serve.server.name={text}")
    assert value == text or isinstance(value, (bool, int, float))


@pytest.mark.slow(1)
@given(st.dictionaries(labels.map(str.strip).filter(lambda name: name and "'" not in name), st.integers(1, 9)))
@example({"好评": 2, "差评 (1)": 3, "a=b": 1})
def test_labels_of_a_mapping_may_have_any_script_and_signs(weights: dict[str, int]) -> None:
    assume(not any(INTERPOLATION.search(name) for name in weights))
    typed = ", ".join(f"{name}: {weight}" for name, weight in weights.items())
    assert read(f"train.torch_ddp.class_weights={{{typed}}}") == weights


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.train=null", None),
        ("data.train='a b'", "a b"),
        (r"data.train=a\,b.csv", "a,b.csv"),
        ("data.train=[a.csv,验证 (1).csv]", ["a.csv", "验证 (1).csv"]),
        ("data.train=[1] (2).csv", "[1] (2).csv"),
        ("data.columns.labels=[toxic,骂人 (1)]", ["toxic", "骂人 (1)"]),
        ("data.columns.text='[1]'", "[1]"),
        ("train.torch_ddp.lr=1e-5", 1e-5),
        ("train.torch_ddp.freeze=[层,(2)]", ["层", "(2)"]),
        ("data.max_rows=007", "007"),
        ("serve.server.name=1#0", "1#0"),
        ("serve.server.name=1_0", 10),
        ("serve.server.name=1é0.5", "1é0.5"),
        ("serve.server.name=1评论", "1评论"),
        ("serve.server.name=0x1F", "0x1F"),
    ],
)
def test_values_of_the_grammar_keep_their_meaning(override: str, value: Any) -> None:
    assert read(override) == value


@pytest.mark.parametrize(
    "override",
    [
        "train.torch_ddp.class_weights={好评：2，差评：1}",
        "train.torch_ddp.class_weights={a",
        "train.torch_ddp.freeze=[1,(2",
        "data.train=a${b}.csv",
        "train.torch_ddp.freeze=${oc.env:NOWHERE}",
    ],
)
def test_unreadable_values_are_reported_with_the_form_to_type(override: str) -> None:
    key, _, text = override.partition("=")
    with pytest.raises(OptionError, match="write") as caught:
        read(override)
    typed = str(caught.value).rpartition("write ")[2]
    (argument,) = shlex.split(typed)
    if INTERPOLATION.search(override):
        argument = argument.replace("option=", f"{key}=")
    assert read(argument) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("1#0")
@example("1#0.5")
@example("1e#0")
def test_no_argument_raises_anything_but_an_error_of_the_user(text: str) -> None:
    for override in (text, f"data.train={text}", f"train.torch_ddp.freeze={text}", f"{text}=1", f"model={text}"):
        try:
            check_choices([override])
        except FastServeError as error:
            assert error.exit_code == 2

"""Values of the command line as users type them, in Hydra's grammar.

Hydra's grammar knows ASCII letters and a few signs. Here every other character is read as a letter, and a value that
the grammar cannot read otherwise is quoted.
"""

from __future__ import annotations

import re
import shlex
import string
from dataclasses import fields
from typing import TYPE_CHECKING

from fastserve_core.config.nodes import DataOptions, ModelSpec
from fastserve_core.errors import OptionError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

HYDRA_CHARACTERS = frozenset(map(ord, string.ascii_letters + string.digits + " \t_~+@:/=$-.,()[]{}\\%*?|'\""))
"""The characters that have a meaning in Hydra's grammar, or are part of its words."""
FULL_WIDTH = re.compile("[，：｛｝［］（）]")
INTERPOLATION = re.compile(r"\$\{[^{}]+\}")
QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")
PATHS_TYPE = "Paths"
TEXT_TYPES = ("str", "str | None", PATHS_TYPE)


def is_text_option(key: str) -> bool:
    """Return whether an option of the nodes ``data`` and ``model`` takes a text, such as a path or a column's name."""
    node, _, name = key.lstrip("+").partition(".")
    nodes = {"data": DataOptions, "model": ModelSpec}
    texts = {field.name for field in fields(nodes[node]) if field.type in TEXT_TYPES} if node in nodes else set()
    return name in texts or (node == "data" and name.startswith("columns."))


def is_list_of_names(key: str, value: str) -> bool:
    """Return whether a value in brackets is a list of files or columns, rather than the name of one."""
    paths = {f"data.{field.name}" for field in fields(DataOptions) if field.type == PATHS_TYPE}
    option = key.lstrip("+")
    return (option in paths or option.startswith("data.columns.")) and value.startswith("[") and value.endswith("]")


def quote(text: str) -> str:
    """Return a value of Hydra's grammar that is read as exactly this text."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(escape_interpolations(text), Quote.double).with_quotes()


def escape_interpolations(text: str) -> str:
    """Escape ``${`` in a text, which OmegaConf reads as an interpolation even inside quotes."""
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", text)


def extend_grammar() -> None:
    """Make Hydra read characters that are not in its grammar, such as those of other scripts, as letters."""
    from antlr4 import InputStream  # type: ignore[import-untyped]
    from hydra.core.override_parser import overrides_parser

    class Characters(InputStream):  # type: ignore[misc]
        def _loadString(self) -> None:  # noqa: N802 - its name in ANTLR
            super()._loadString()
            # a tilde deletes an option if it is the first character, and has no meaning elsewhere. The letter is none
            # of a number or a keyword: an underscore would make 1#0 a number
            self.data = [
                code if code in HYDRA_CHARACTERS and not (code == ord("~") and index) else ord("x")
                for index, code in enumerate(map(ord, self.strdata))
            ]

    overrides_parser.InputStream = Characters  # type: ignore[attr-defined]


def quote_value(override: str) -> str:
    """Quote the value of an override if Hydra cannot read it, or would change it, although it is a text.

    Args:
        override: An override, or a flag, which is returned as it is.

    Raises:
        OptionError: The value looks like a list or a mapping and is none; the message has the quoted form.
    """
    key, _, value = override.partition("=")
    return f"{key}={_quote_if_needed(key, value)}" if value and not key.startswith("-") else override


def _quote_if_needed(key: str, value: str) -> str:
    from hydra.errors import HydraException

    is_text = is_text_option(key) and not is_list_of_names(key, value)
    try:
        parsed = _parse_value(value)
    except HydraException as error:
        if value[0] not in "[{" or is_text:
            return _quote_text(value)
        return _escape_words(key, value, error)
    return _quote_text(value) if is_text and _is_changed(value, parsed) else value


def _parse_value(value: str) -> Override:
    """Return Hydra's reading of a value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(f"key={value}")


def _is_changed(value: str, parsed: Override) -> bool:
    """Return whether Hydra reads an unquoted text as a number, a list or a mapping, or strips its blanks."""
    uses_grammar = value.lstrip()[:1] in ("'", '"') or "\\" in value or parsed.is_sweep_override()
    return not uses_grammar and parsed.value() is not None and str(parsed.value()) != value


def _quote_text(value: str) -> str:
    """Quote a value; its interpolations stay interpolations."""
    return quote(value) if not INTERPOLATION.search(value) else quote(value).replace(r"\${", "${")


def _escape_words(key: str, value: str, error: Exception) -> str:
    """Escape the signs in the words of a list or a mapping that Hydra cannot read.

    Raises:
        OptionError: It cannot be read then either.
    """
    from hydra.errors import HydraException

    parts = QUOTED.split(value)  # quoted parts have odd indices
    escaped = "".join(part if index % 2 else re.sub(r"[()=]", r"\\\g<0>", part) for index, part in enumerate(parts))
    try:
        _parse_value(escaped)
    except HydraException:
        raise _unreadable_error(key, value, error) from error
    return escaped


def _unreadable_error(key: str, value: str, error: Exception) -> OptionError:
    reason = str(error).splitlines()[0]
    hint = "write commas, colons and brackets as ASCII characters; " if FULL_WIDTH.search(value) else ""
    return OptionError(
        f"'{key}={value}' cannot be read as a list or a mapping: {reason}. In a list, quote texts with signs "
        f'(["a, b"]); in a mapping, write a backslash before the signs of a name ({{a\\,b: 1}}); '
        f"{hint}for a single text, write {format_argument(key, value)}"
    )


def format_argument(key: str, text: str) -> str:
    """Return the argument to type in a shell that sets an option to exactly this text."""
    return shlex.quote(f"{key}={quote(text)}")

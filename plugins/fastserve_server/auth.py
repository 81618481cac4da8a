"""API keys: read when the server starts, known to it by their hashes, checked before anything else."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request

from fastserve_core.artifacts import expand_user
from fastserve_core.errors import OptionError

VARIABLE = "FASTSERVE_API_KEYS"
MIN_KEY_LENGTH = 16
"""Minimum number of characters: shorter keys can be guessed, because requests are cheap."""
PUBLIC_PATHS = frozenset({"/", "/dashboard", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: health checks of orchestrators, and pages that show only a model's name and task."""
SCHEME = "bearer "


def key_hashes(file: str | None, option: str) -> list[str]:
    """Read the API keys of a file and of ``FASTSERVE_API_KEYS``.

    Args:
        file: File with one key per line, or ``None``. Empty lines and lines that begin with ``#`` are ignored.
        option: Name of the option, for the error.

    Returns:
        The SHA-256 hash of each key, in hexadecimal.

    Raises:
        OptionError: The file cannot be read, the file or the variable has no keys, or a key is too short. The message
            contains no key.
    """
    variable = os.environ.get(VARIABLE)
    keys = [(VARIABLE, key.strip()) for key in (variable or "").split(",") if key.strip()]
    if file is not None:
        keys += [(f"{file}:{number}", key) for number, key in _lines(file, option)]
        if not keys:
            raise OptionError(f"{option}: {file} contains no key")
    if variable is not None and not keys:
        raise OptionError(f"{VARIABLE} is set, but contains no key: unset it to serve without keys")
    for source, key in keys:
        if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise OptionError(
                f"{source}: a key must have at least {MIN_KEY_LENGTH} printable ASCII characters and no space"
            )
    return [_hash(key) for _, key in keys]


def _lines(file: str, option: str) -> list[tuple[int, str]]:
    try:
        text = expand_user(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{option}: cannot read the file {file}: {reason}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeyAuth:
    """Checks ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; without hashes, every request passes."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = hashes
        self.is_enabled = bool(hashes)

    def check(self, request: Request) -> None:
        """Check the key of a request.

        Raises:
            HTTPException: 401, if the key is missing or wrong.
        """
        if not self.is_enabled or request.scope["path"] in PUBLIC_PATHS:
            return
        key = request_key(request)
        if not key or not self._is_known(_hash(key)):
            message = "the API key is not valid for this server" if key else "this server requires an API key"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})

    def _is_known(self, given: str) -> bool:
        """Compare with all hashes, so that the time reveals nothing."""
        return sum(hmac.compare_digest(given, known) for known in self._hashes) > 0


def request_key(request: Request) -> str:
    """Return the key of a request; empty if it has none."""
    authorization = request.headers.get("authorization", "")
    if authorization.lower().startswith(SCHEME):
        return authorization[len(SCHEME) :].strip()
    return request.headers.get("x-api-key", "").strip()

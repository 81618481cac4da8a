"""API keys: read where the server is started, known to it by their hashes, asked for before anything else."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from fastserve_core.errors import InvalidOption

VARIABLE = "FASTSERVE_API_KEYS"
MIN_KEY_LENGTH = 16
"""Characters of a key at least: shorter ones can be guessed, for requests are cheap."""
PUBLIC_PATHS = frozenset({"/", "/dashboard", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
"""What needs no key: the health that an orchestrator asks for, and pages that tell the model's name and task alone."""
SCHEME = "bearer "


def key_hashes(file: str | None, option: str) -> list[str]:
    """The SHA-256 of each key: those of the file, a key a line, and those of the environment, between commas.

    Empty lines and lines that begin with ``#`` are no keys. Raises ``InvalidOption``, which names no key.
    """
    found = [(VARIABLE, key.strip()) for key in os.environ.get(VARIABLE, "").split(",") if key.strip()]
    if file is not None:
        found += [(f"{file}:{number}", key) for number, key in _lines(file, option)]
        if not found:
            raise InvalidOption(f"{option}: {file} has no key in it")
    for where, key in found:
        if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise InvalidOption(
                f"{where}: a key has at least {MIN_KEY_LENGTH} ASCII characters and no blank; one of them has not"
            )
    return [_hash(key) for _, key in found]


def _lines(file: str, option: str) -> list[tuple[int, str]]:
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidOption(f"{option}: the file {file} cannot be read: {reason}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeyAuth:
    """Lets nothing pass without a key, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, where there are any."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = hashes
        self.asks = bool(hashes)

    def check(self, request: Request) -> None:
        """Raises a 401."""
        if not self.asks or request.scope["path"] in PUBLIC_PATHS:
            return
        key = given_key(request)
        if not key or not self._is_known(_hash(key)):
            said = "the API key is not one of this server's" if key else "this server asks for an API key"
            raise HTTPException(401, said, {"WWW-Authenticate": "Bearer"})

    def _is_known(self, given: str) -> bool:
        """All are compared, so that the time tells nothing."""
        return sum(hmac.compare_digest(given, one) for one in self._hashes) > 0


def given_key(request: Request) -> str:
    """The key of a request; empty where it has none."""
    authorization = request.headers.get("authorization", "")
    if authorization.lower().startswith(SCHEME):
        return authorization[len(SCHEME) :].strip()
    return request.headers.get("x-api-key", "").strip()

"""A client of the servers: any number of inputs, several requests at a time, patient with a busy server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fastserve_core.errors import InvalidOption, MissingPackage, StageFailed, UserError

if TYPE_CHECKING:
    import httpx

KEY = "FASTSERVE_API_KEY"
RETRYABLE_STATUS = (429, 503)
CLIENT_ERROR_STATUS = range(400, 500)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class RequestRejected(UserError):
    """The server would not answer what it was asked: a wrong input, key, model or path."""


class ServerUnavailable(StageFailed):
    """No server answers there, or it failed."""


class AsyncClient:
    """Asks a server; to be used with ``async with``.

    ``key`` is an API key (``FASTSERVE_API_KEY`` when ``None``), ``model`` one of several behind the address. Inputs go
    ``batch`` to a request, and ``at_once`` requests at a time. A server that is busy or not there yet is asked again
    for up to ``patience_s`` seconds, later where it says so.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        model: str | None = None,
        batch: int = 32,
        at_once: int = 8,
        patience_s: float = 30.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidOption(f"'{url}' is no address of a server: it begins with http:// or https://")
        self._url, self._model, self._batch, self._patience_s = url.rstrip("/"), model, batch, patience_s
        self._free = asyncio.Semaphore(at_once)
        key = key or os.environ.get(KEY)
        self._http = _http_client({"Authorization": f"Bearer {key}"} if key else {})

    async def predict(self, inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The answers to texts (or pairs, word lists, mappings), in their order, as ``Predictor.predict`` has them.

        Raises ``RequestRejected`` with what the server said, or ``ServerUnavailable``.
        """
        asked = [_as_json(one) for one in inputs]
        parts = [asked[start : start + self._batch] for start in range(0, len(asked), self._batch)]
        about = {"options": dict(options or {})} | ({"model": self._model} if self._model else {})
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answers({"inputs": part, **about})) for part in parts]
        except ExceptionGroup as faults:  # one is enough to say
            raise faults.exceptions[0] from None
        return [answer for task in tasks for answer in task.result()]

    async def lineage(self) -> dict[str, Any]:
        """What the model was made from, and its measures."""
        return await self._ask("GET", "/lineage", params={"model": self._model} if self._model else {})

    async def _answers(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with self._free:
            found: list[dict[str, Any]] = (await self._ask("POST", "/predict", json=body))["predictions"]
        return found

    async def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        end, pause = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        while True:
            response = await self._tried(method, path, given)
            said = response.headers.get("retry-after", "") if response is not None else ""
            asked_to_wait = float(said) if said.isdecimal() else 0.0  # a proxy may say a date
            left = end - time.monotonic()
            if (response is not None and response.status_code not in RETRYABLE_STATUS) or left <= 0:
                return self._read(response)
            await asyncio.sleep(min(max(pause, asked_to_wait), left))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _tried(self, method: str, path: str, given: Mapping[str, Any]) -> httpx.Response | None:
        """The answer; ``None`` where nobody took the request."""
        import httpx

        try:
            return await self._http.request(method, self._url + path, **given)
        except (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError):
            return None
        except httpx.InvalidURL as error:
            raise InvalidOption(f"'{self._url}' is no address of a server: {error}") from error
        except httpx.HTTPError as error:
            raise ServerUnavailable(f"{self._url}: {error or type(error).__name__}") from error

    def _read(self, response: httpx.Response | None) -> dict[str, Any]:
        if response is None:
            raise ServerUnavailable(f"no server answers at {self._url} (asked for {self._patience_s:g} s)")
        try:
            found: dict[str, Any] = response.json()
        except ValueError:
            found = {}
        if response.status_code == 200 and found:
            return found
        problem = found.get("error")
        said = problem.get("message") if isinstance(problem, dict) else problem
        message = f"{self._url}: {said or 'what answers is no FastServe server'} ({response.status_code})"
        mine = response.status_code in CLIENT_ERROR_STATUS and response.status_code not in RETRYABLE_STATUS
        raise RequestRejected(message) if mine else ServerUnavailable(message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def predict_remote(url: str, inputs: Sequence[Any], model: str | None = None) -> list[dict[str, Any]]:
    """``AsyncClient.predict`` for code that does not wait for other things meanwhile."""

    async def run() -> list[dict[str, Any]]:
        async with AsyncClient(url, model=model) as client:
            return await client.predict(inputs)

    return asyncio.run(run())


def _as_json(one: Any) -> Any:
    """A pair by its names, anything else as it is."""
    return {"text": one[0], "text_pair": one[1]} if isinstance(one, tuple) else one


def _http_client(headers: Mapping[str, str]) -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError as error:
        raise MissingPackage("the client needs httpx: pip install 'fastserve-core[client]'") from error
    return httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(60.0, connect=5.0))

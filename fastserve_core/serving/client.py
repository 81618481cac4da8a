"""Client of the servers: splits inputs into concurrent requests, and retries while a server is busy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fastserve_core.errors import MissingPackageError, OptionError, StageError, UserError
from fastserve_core.tasks.inputs import list_inputs

if TYPE_CHECKING:
    import httpx

API_KEY_VARIABLE = "FASTSERVE_API_KEY"
RETRYABLE_STATUS = (429, 503)
CLIENT_ERROR_STATUS = range(400, 500)
INITIAL_BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0


class RequestRejectedError(UserError):
    """The server rejected a request: an input, the key, the model or the path is wrong."""


class ServerUnavailableError(StageError):
    """No server answers at the address, or it failed."""


class AsyncClient:
    """Client of a server; use it with ``async with``.

    A server that is busy or not reachable is retried, with exponential backoff or after the server's ``Retry-After``.

    Args:
        url: Address of the server, as ``http://127.0.0.1:8888``.
        key: API key; ``None`` for that of ``FASTSERVE_API_KEY``, if it is set.
        model: Name of the model; ``None`` for the server's first one.
        batch: Maximum number of inputs in a request.
        at_once: Maximum number of concurrent requests.
        patience_s: Seconds after which a request is no longer retried.

    Raises:
        OptionError: The address is not an HTTP URL.
        MissingPackageError: httpx is not installed.
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
            raise OptionError(f"'{url}' is not a server's address: it must begin with http:// or https://")
        self._url, self._model, self._batch, self._patience_s = url.rstrip("/"), model, batch, patience_s
        self._semaphore = asyncio.Semaphore(at_once)
        key = key or os.environ.get(API_KEY_VARIABLE)
        self._http = _http_client({"Authorization": f"Bearer {key}"} if key else {})

    async def predict(self, inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Answer inputs with the model.

        Args:
            inputs: Texts, pairs of texts, lists of words, or mappings of the task's fields; a single text or mapping is
                one input.
            options: Options of the task, such as ``max_new_tokens``.

        Returns:
            One answer per input, in their order, as ``Predictor.predict`` returns them.

        Raises:
            RequestRejectedError: The server rejected a request; the message is the server's.
            ServerUnavailableError: The server failed, or could not be reached within ``patience_s``.
        """
        rows = [_to_json(value) for value in list_inputs(inputs)]
        batches = [rows[start : start + self._batch] for start in range(0, len(rows), self._batch)]
        common = {"options": dict(options or {})} | ({"model": self._model} if self._model else {})
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._predict_batch({"inputs": batch, **common})) for batch in batches]
        except ExceptionGroup as errors:  # the first one is enough
            raise errors.exceptions[0] from None
        return [answer for task in tasks for answer in task.result()]

    async def lineage(self) -> dict[str, Any]:
        """Return how the model was made, with its measures; raises the errors of ``predict``."""
        return await self._request("GET", "/lineage", params={"model": self._model} if self._model else {})

    async def _predict_batch(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with self._semaphore:
            answers: list[dict[str, Any]] = (await self._request("POST", "/predict", json=body))["predictions"]
        return answers

    async def _request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        deadline, backoff = time.monotonic() + self._patience_s, INITIAL_BACKOFF_S
        while True:
            response = await self._try_request(method, path, arguments)
            header = response.headers.get("retry-after", "") if response is not None else ""
            retry_after = float(header) if header.isdecimal() else 0.0  # a proxy may send a date
            left = deadline - time.monotonic()
            if (response is not None and response.status_code not in RETRYABLE_STATUS) or left <= 0:
                return self._read(response)
            await asyncio.sleep(min(max(backoff, retry_after), left))
            backoff = min(2 * backoff, MAX_BACKOFF_S)

    async def _try_request(self, method: str, path: str, arguments: Mapping[str, Any]) -> httpx.Response | None:
        """Send a request once; ``None`` if no server could be reached."""
        import httpx

        try:
            return await self._http.request(method, self._url + path, **arguments)
        except (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError):
            return None
        except httpx.InvalidURL as error:
            raise OptionError(f"'{self._url}' is not a server's address: {error}") from error
        except httpx.HTTPError as error:
            raise ServerUnavailableError(f"{self._url}: {error or type(error).__name__}") from error

    def _read(self, response: httpx.Response | None) -> dict[str, Any]:
        if response is None:
            raise ServerUnavailableError(f"no server answers at {self._url} (tried for {self._patience_s:g} s)")
        try:
            body: dict[str, Any] = response.json()
        except ValueError:
            body = {}
        if response.status_code == 200 and body:
            return body
        problem = body.get("error")
        reason = problem.get("message") if isinstance(problem, dict) else problem
        message = f"{self._url}: {reason or 'this is not a FastServe server'} ({response.status_code})"
        is_rejected = response.status_code in CLIENT_ERROR_STATUS and response.status_code not in RETRYABLE_STATUS
        raise RequestRejectedError(message) if is_rejected else ServerUnavailableError(message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def predict_remote(url: str, inputs: Sequence[Any], model: str | None = None) -> list[dict[str, Any]]:
    """Call ``AsyncClient.predict`` from synchronous code.

    Args:
        url: Address of the server.
        inputs: See ``AsyncClient.predict``.
        model: Name of the model; ``None`` for the server's first one.
    """

    async def run() -> list[dict[str, Any]]:
        async with AsyncClient(url, model=model) as client:
            return await client.predict(inputs)

    return asyncio.run(run())


def lineage_remote(url: str, model: str | None = None) -> dict[str, Any]:
    """Return ``AsyncClient.lineage`` for code that does not wait for other things meanwhile."""

    async def run() -> dict[str, Any]:
        async with AsyncClient(url, model=model) as client:
            return await client.lineage()

    return asyncio.run(run())


def _to_json(value: Any) -> Any:
    """A pair as a mapping; other inputs unchanged."""
    return {"text": value[0], "text_pair": value[1]} if isinstance(value, tuple) else value


def _http_client(headers: Mapping[str, str]) -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError as error:
        raise MissingPackageError("the client needs httpx: pip install 'fastserve-core[client]'") from error
    return httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(60.0, connect=5.0))

"""A layer by which a retried request joins the first attempt, which may still be running, instead of starting again.

The SDKs of OpenAI give up after ten minutes of silence and try twice more, so one long prefill would run three times.
They send ``x-stainless-retry-count`` with every attempt and say how long they wait (``x-stainless-read-timeout``, in
Node ``x-stainless-timeout``, both in seconds). Joined are only such retries, or requests that name the same
``Idempotency-Key``: the same client (``Authorization``), API and body, byte for byte. Two equal requests at one time
are two requests: they may want two samples. A retry may come after a refusal (429, 503) as well, so it joins a request
that is still waited for only if somebody who waits must have given up by now, unseen, such as behind a proxy.

A request that could be retried runs in a task of its own, and its connections wait for it. When the last one is gone
and had waited for about as long as it said, the task is kept for ``GRACE`` seconds, running or finished; when it went
earlier (Ctrl-C, a closed tab) the task is cancelled at once, which ends the request in the engine.

Streams are never joined: their headers are sent at once, after which no SDK retries.
"""

import asyncio
import copy
import hashlib
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from longrope_vllm.server.layers import Api, Handler

GRACE = 30.0
"""Seconds for which a request that nobody waits for any more waits for its retry; the SDKs come back within ten."""

_HASHED_AT_ONCE = 1_000_000
"""Bytes that are hashed in passing; more of them in a thread."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One connection's try at a request, as its headers tell. Times in seconds; ``since`` by the event loop's clock."""

    digest: bytes
    """Of owner, API and body."""
    retries: int
    idempotency_key: str | None
    patience: float | None
    """How long the client said it waits for an answer; None if it did not say."""
    since: float

    def gave_up(self, now: float) -> bool:
        """True if a client that leaves ``now`` has waited as long as it said, the time of its upload not counted."""
        if self.patience is None:
            return False
        return now - self.since >= self.patience - max(1.0, self.patience / 20)


@dataclass(eq=False, kw_only=True)
class _Running:
    """A request in its own task, and who waits for it."""

    task: asyncio.Task[Any]
    idempotency_key: str | None
    retries: int
    """The highest of the attempts that joined."""
    waiting: list[Attempt] = field(default_factory=list)
    joined: bool = False
    expiry: asyncio.TimerHandle | None = None

    def is_continued_by(self, attempt: Attempt, now: float) -> bool:
        if attempt.idempotency_key is not None or self.idempotency_key is not None:
            return attempt.idempotency_key == self.idempotency_key
        if not self.waiting:
            return attempt.retries >= 1
        return self.retries < attempt.retries and any(one.gave_up(now) for one in self.waiting)


class Joining:
    """The layer; one for all APIs of an app. ``grace`` in seconds."""

    def __init__(self, *, grace: float = GRACE) -> None:
        self._grace = grace
        self._running: dict[bytes, list[_Running]] = {}

    def __call__(self, api: Api, handler: Handler) -> Handler:
        """``handler``, whose requests can be joined."""

        async def joined(request: Any, raw_request: Request) -> Any:
            if request.stream or getattr(request, "background", False) or not _may_be_retried(raw_request.headers):
                return await handler(request, raw_request)
            attempt = await _attempt(api, raw_request)
            running = self._find(attempt) or self._start(attempt, handler(request, raw_request))
            return await self._wait(running, attempt)

        return joined

    def __len__(self) -> int:
        """Number of requests that are running or kept."""
        return sum(map(len, self._running.values()))

    def _find(self, attempt: Attempt) -> _Running | None:
        """The request that ``attempt`` goes on with; one that nobody waits for comes first."""
        now = asyncio.get_running_loop().time()
        candidates = [one for one in self._running.get(attempt.digest, ()) if one.is_continued_by(attempt, now)]
        found = min(candidates, key=lambda one: bool(one.waiting), default=None)
        if found is not None:
            found.joined = True
            found.retries = max(found.retries, attempt.retries)
        return found

    def _start(self, attempt: Attempt, answering: Awaitable[Any]) -> _Running:
        task = asyncio.ensure_future(_answer(answering))
        task.add_done_callback(_seen)
        running = _Running(task=task, idempotency_key=attempt.idempotency_key, retries=attempt.retries)
        self._running.setdefault(attempt.digest, []).append(running)
        return running

    async def _wait(self, running: _Running, attempt: Attempt) -> Any:
        """The answer of ``running``; cancelled, it leaves the others that wait alone."""
        running.waiting.append(attempt)
        if running.expiry is not None:
            running.expiry.cancel()
            running.expiry = None
        answered = False
        try:
            await asyncio.wait((running.task,))
            answered = True
        finally:
            running.waiting.remove(attempt)
            if not running.waiting:
                self._deserted(running, attempt, answered=answered)
        answer = running.task.result()
        return copy.deepcopy(answer) if running.joined else answer  # each may do with it what it likes

    def _deserted(self, running: _Running, attempt: Attempt, *, answered: bool) -> None:
        loop = asyncio.get_running_loop()
        if not answered and attempt.gave_up(loop.time()):
            running.expiry = loop.call_later(self._grace, self._end, running, attempt.digest)
        else:
            self._end(running, attempt.digest)

    def _end(self, running: _Running, digest: bytes) -> None:
        """Forget ``running``, and cancel what is left of it."""
        running.task.cancel()
        same = self._running[digest]
        same.remove(running)
        if not same:
            del self._running[digest]


async def _answer(answering: Awaitable[Any]) -> Any:
    return await answering


def _seen(task: asyncio.Task[Any]) -> None:
    """An error that nobody waits for any more is none that asyncio should complain about."""
    if not task.cancelled():
        task.exception()


def _may_be_retried(headers: Mapping[str, str]) -> bool:
    return "x-stainless-retry-count" in headers or "idempotency-key" in headers


async def _attempt(api: Api, raw_request: Request) -> Attempt:
    since = asyncio.get_running_loop().time()
    headers = raw_request.headers
    body = await raw_request.body()
    owner = headers.get("authorization", "")
    if len(body) <= _HASHED_AT_ONCE:
        digest = _digest(api, owner, body)
    else:
        digest = await asyncio.to_thread(_digest, api, owner, body)
    stated = headers.get("x-stainless-retry-count", "")
    return Attempt(
        digest=digest,
        retries=int(stated) if stated.isdecimal() else 0,
        idempotency_key=headers.get("idempotency-key"),
        patience=_seconds(headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout")),
        since=since,
    )


def _digest(api: Api, owner: str, body: bytes) -> bytes:
    """A hash in place of the body itself, which may be megabytes."""
    digest = hashlib.sha256(f"{api}\n{len(owner)}\n{owner}\n".encode())
    digest.update(body)
    return digest.digest()


def _seconds(stated: str | None) -> float | None:
    try:
        return None if stated is None else float(stated)
    except ValueError:
        return None

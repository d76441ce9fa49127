"""``return_progress: true`` in a stream of chat, completions or responses: progress until the first token.

A layer that asks the engine about twice a second while it has not answered, and merges what changed into the stream.
A request that does not ask for it gets vLLM's stream as it is.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request

from longrope_vllm.plugin.followed import Followed, current
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.layers import Api, Handler, Layer
from longrope_vllm.server.progress_events import ChunkEvents, ProgressEvents, ResponseEvents
from longrope_vllm.server.request_progress import RequestProgress, ask_progress, progress_so_far

FIELD = "return_progress"

INTERVAL = 0.5
"""Seconds between two questions to the engine, which answers between two of its steps."""
EARLY = 0.05
"""Seconds until the next question while the request is on its way into the engine."""

_OBJECTS: dict[Api, str] = {"chat": "chat.completion.chunk", "completions": "text_completion"}
_END = object()

logger = logging.getLogger("vllm.longrope")


def tell_progress(engine: Any) -> Layer:
    """The layer over the engine client ``engine``; inside that of ``requests.follow``."""

    def layer(api: Api, handler: Handler) -> Handler:
        async def handle(request: Any, raw_request: Request) -> Any:
            if not _is_asked(request):
                return await handler(request, raw_request)
            followed = current()
            assert followed is not None, "the layer of requests.follow stands around this one"
            answer = await handler(request, raw_request)
            if not isinstance(answer, AsyncGenerator):
                return answer
            return _merged(answer, _events(api, followed, raw_request), engine, followed)

        return handle

    return layer


def _events(api: Api, followed: Followed, raw_request: Request) -> ProgressEvents:
    if api == "responses":
        return ResponseEvents()
    models = raw_request.app.state.openai_serving_models
    return ChunkEvents(
        id=followed.id,
        object=_OBJECTS[api],
        created=int(time.time()),
        model=lambda: followed.adapter or models.model_name(),
    )


def _is_asked(request: Any) -> bool:
    wanted = (request.model_extra or {}).get(FIELD)
    if wanted is None or wanted is False:
        return False
    if wanted is not True:
        raise ApiError(
            f"Expected true or false as {FIELD}, found {wanted!r}.", status=400, code="invalid_value", param=FIELD
        )
    if not request.stream:
        raise ApiError(
            f"Expected stream=true beside {FIELD}, found a request that does not stream: set stream=true, or send an "
            "X-Request-Id and ask GET /v1/requests/{id} meanwhile.",
            status=400,
            code="stream_required",
            param=FIELD,
        )
    return True


async def _merged(
    inner: AsyncGenerator[Any, None], events: ProgressEvents, engine: Any, followed: Followed
) -> AsyncGenerator[Any, None]:
    """``inner`` with progress before the first item that the engine has to do with; closed with this one."""
    upcoming: asyncio.Task[Any] | None = None
    try:
        while not events.is_open:
            item = await anext(inner, _END)
            if item is _END:
                return
            yield events.passed(item)
        upcoming = asyncio.create_task(_next(inner))
        async with aclosing(_changes(engine, followed, until=upcoming)) as changes:
            async for change in changes:
                yield events.made(change)
        item = await upcoming
        if item is not _END:
            yield events.passed(item)
        async for item in inner:
            yield events.passed(item)
    finally:
        if upcoming is not None:
            await _stop(upcoming)
        await inner.aclose()


async def _next(inner: AsyncGenerator[Any, None]) -> Any:
    return await anext(inner, _END)


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _changes(
    engine: Any, followed: Followed, *, until: asyncio.Task[Any]
) -> AsyncGenerator[RequestProgress, None]:
    """Progress whenever it differs from what was told, ``until`` the engine has answered, and the whole prefill."""
    told: RequestProgress | None = None
    while not until.done():
        found = await _asked(engine, followed, until)
        if until.done():
            break
        if found is not None and _has_changed(told, found):
            told = found
            yield found
            if found.state == "generating":  # what answers may hold back its first tokens
                break
        await asyncio.wait({until}, timeout=EARLY if found is None else INTERVAL)
    last = progress_so_far(followed, {})
    if last is not None and last.prompt.processed == last.prompt.total and _has_changed(told, last):
        yield last


async def _asked(engine: Any, followed: Followed, until: asyncio.Task[Any]) -> RequestProgress | None:
    """The engine's answer; None if ``until`` was done sooner, the request is not there yet, or its output on the way.

    A question that fails is logged and not asked again: the answer itself must not suffer from it.
    """
    question = asyncio.create_task(ask_progress(engine, followed))
    try:
        await asyncio.wait({question, until}, return_when=asyncio.FIRST_COMPLETED)
        if not question.done():
            return None
        if (error := question.exception()) is not None:
            logger.warning("longrope: no progress is told any more, the engine could not be asked: %s", error)
            await asyncio.wait({until})
            return None
        found = question.result()
    finally:
        await _stop(question)
    return None if found is not None and found.state == "generating" and not found.output_tokens else found


def _has_changed(told: RequestProgress | None, found: RequestProgress) -> bool:
    return told is None or _seen(told) != _seen(found)


def _seen(progress: RequestProgress) -> tuple[int | None, int]:
    """What a client is told of as soon as it changes."""
    return progress.queue_position, progress.prompt.processed

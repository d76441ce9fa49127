"""Work for a client that has to be there to the end, and what a cancelled handler leaves to its threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request

_Found = TypeVar("_Found")
_Made = TypeVar("_Made")


async def while_connected(request: Request, work: Coroutine[Any, Any, _Found]) -> _Found | None:
    """The result of ``work``, or None when the client hung up, which ends it. The body must have been read.

    ``Request.is_disconnected`` would not do: it looks without waiting, and behind middleware nothing is there at once.
    """
    working = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, hung_up), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        hung_up.cancel()


@asynccontextmanager
async def made_in_thread(make: Callable[[], AbstractContextManager[_Made]]) -> AsyncIterator[_Made]:
    """The context that ``make()`` makes in a thread; one that is made after a cancellation is left as well."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        made = await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_leave)
        raise
    with made as entered:
        yield entered


def _leave(making: asyncio.Future[Any]) -> None:
    if not making.cancelled() and making.exception() is None:
        with making.result():
            pass


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

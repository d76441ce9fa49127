"""``GET /v1/requests/{id}``: how far a request is, for clients that do not stream.

A layer around the handlers keeps every response from the moment its handler is called, under the id of the response and
under the name the client gave it (``X-Request-Id``), each visible to the API key that asked for it. With several API
server processes a request is known in the one that took it.
"""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal
from weakref import finalize

from fastapi import APIRouter, Request

from longrope_vllm.plugin.followed import End, Followed, following
from longrope_vllm.plugin.output_processor import answered
from longrope_vllm.plugin.progress import State
from longrope_vllm.plugin.status import KEPT, RequestStatus, base_id, together
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.engine_cores import ask_engine_cores
from longrope_vllm.server.layers import Api, Handler, Layer
from longrope_vllm.server.owner import owner_of
from longrope_vllm.server.request_progress import PromptProgress, ask_progress

_PREFIX: dict[Api, str] = {"chat": "chatcmpl-", "completions": "cmpl-", "responses": ""}
"""What vLLM puts before the client's name of a request to make the id of its response."""

router = APIRouter(tags=["longrope"])


@dataclass(frozen=True, kw_only=True)
class RequestReport:
    """What ``GET /v1/requests/{id}`` tells; lengths in tokens."""

    id: str
    object: Literal["request"] = "request"
    state: Literal["preparing", "queued", "prefill", "generating", "finished", "aborted"]
    """Preparing: its prompt is being made (template, tokens). Aborted: it ended without an answer."""
    queue_position: int | None
    prompt_progress: PromptProgress | None
    """None while it is prepared, and of one that never reached the engine."""
    output_tokens: int
    longrope: RequestStatus | None
    """The tier that serves it; None on a server without tiers, and before it is in the engine."""


class Requests:
    """Responses in the making and the last ``KEPT`` ended ones, by owner and name."""

    def __init__(self, *, keyed: bool) -> None:
        self._keyed = keyed
        self._named: dict[tuple[str, str], Followed] = {}
        self._ended: deque[tuple[Followed, list[tuple[str, str]]]] = deque()

    def begin(self, api: Api, request: Any, raw_request: Request) -> tuple[Followed, ExitStack]:
        """Keep the response to ``request``. Leaving the stack ends it, as aborted unless it was closed before."""
        given = raw_request.headers.get("x-request-id")
        name = request.request_id if given is None or api == "responses" else given
        followed = Followed(f"{_PREFIX[api]}{name}", first_only=bool(getattr(request, "use_beam_search", False)))
        owner = owner_of(raw_request, keyed=self._keyed)
        keys = [(owner, known) for known in {followed.id, name, given} if known is not None]
        self._named |= dict.fromkeys(keys, followed)
        ending = ExitStack()
        ending.callback(self._end, followed, keys)
        return followed, ending

    def find(self, name: str, raw_request: Request) -> Followed | None:
        """The latest response by that id or client's name among those of the same owner."""
        return self._named.get((owner_of(raw_request, keyed=self._keyed), name))

    def _end(self, followed: Followed, keys: list[tuple[str, str]]) -> None:
        followed.close("aborted")
        self._ended.append((followed, keys))
        while len(self._ended) > KEPT:
            self._forget(*self._ended.popleft())

    def _forget(self, followed: Followed, keys: list[tuple[str, str]]) -> None:
        for key in keys:
            if self._named.get(key) is followed:  # and not a later one of the same name
                del self._named[key]


def follow(requests: Requests) -> Layer:
    """The layer that keeps every response in ``requests``; the outermost of those that use ``followed.current``."""

    def layer(api: Api, handler: Handler) -> Handler:
        async def handle(request: Any, raw_request: Request) -> Any:
            followed, ending = requests.begin(api, request, raw_request)
            with ending:
                with following(followed):
                    answer = await handler(request, raw_request)
                if getattr(request, "background", False) and _end_with_task(raw_request, followed, ending):
                    return answer
                if isinstance(answer, AsyncGenerator):
                    rest = ending.pop_all()
                    stream = _followed_stream(answer, followed, rest)
                    finalize(stream, rest.close)  # a client may leave before the stream begins
                    return stream
                followed.close(_end_of(followed, has_answer=hasattr(answer, "id")))
            return answer

        return handle

    return layer


def _end_with_task(raw_request: Request, followed: Followed, ending: ExitStack) -> bool:
    """Let a response made in the background end when its task does; False if it has none (any more)."""
    task = raw_request.app.state.openai_serving_responses.background_tasks.get(followed.id)
    if task is None:
        return False
    rest = ending.pop_all()

    def end(_: Any) -> None:
        followed.close(_end_of(followed, has_answer=not task.cancelled()))
        rest.close()

    task.add_done_callback(end)
    return True


async def _followed_stream(
    inner: AsyncGenerator[Any, None], followed: Followed, ending: ExitStack
) -> AsyncGenerator[Any, None]:
    """``inner``, whose requests belong to ``followed``; closed with this one."""
    try:
        while True:
            with following(followed):  # each item may be asked for in another task
                try:
                    item = await anext(inner)
                except StopAsyncIteration:
                    break
            yield item
        followed.close(_end_of(followed, has_answer=True))
    finally:
        ending.close()
        await inner.aclose()


def _end_of(followed: Followed, *, has_answer: bool) -> End:
    begun = any(request.output_tokens for request in followed.requests())
    return "finished" if has_answer and begun else "aborted"


_EXAMPLE = {
    "id": "chatcmpl-report-7",
    "object": "request",
    "state": "prefill",
    "queue_position": None,
    "prompt_progress": {"total": 1048576, "cache": 16384, "processed": 425984, "time_ms": 61250},
    "output_tokens": 0,
    "longrope": {
        "tier": 1,
        "tier_max_length": 2097152,
        "tokens": 1048576,
        "crossings": 0,
        "reprefilled_tokens": 0,
    },
}
_UNKNOWN = {
    "error": {
        "message": "Expected the id of a request that runs or has ended lately, found 'chatcmpl-0'.",
        "type": "invalid_request_error",
        "param": None,
        "code": "request_not_found",
    }
}


@router.get(
    "/v1/requests/{request_id}",
    responses={
        200: {"content": {"application/json": {"example": _EXAMPLE}}},
        404: {
            "description": "Unknown, forgotten, or another key's",
            "content": {"application/json": {"example": _UNKNOWN}},
        },
    },
)
async def request_report(request_id: str, request: Request) -> RequestReport:
    """How far a request is, by the id of its response or by the X-Request-Id it was sent with."""
    requests: Requests = request.app.state.longrope_requests
    followed = requests.find(request_id, request)
    if followed is None:
        raise ApiError(
            f"Expected the id of a request that runs or has ended lately, found {request_id!r}.",
            status=404,
            code="request_not_found",
        )
    return await _report(request.app.state.longrope_engine, followed)


async def _report(engine: Any, followed: Followed) -> RequestReport:
    progress = await ask_progress(engine, followed)
    state: State | Literal["preparing"] = "preparing" if progress is None else progress.state
    return RequestReport(
        id=followed.id,
        state=followed.end or state,
        queue_position=None if progress is None or followed.end else progress.queue_position,
        prompt_progress=None if progress is None else progress.prompt,
        output_tokens=0 if progress is None else progress.output_tokens,
        longrope=await _tier_status(engine, followed),
    )


async def _tier_status(engine: Any, followed: Followed) -> RequestStatus | None:
    """Tiers and crossings of ``followed``, which this process knows of what has ended, and the engine of what runs."""
    served = None if engine is None else ServedTiers.from_vllm_config(engine.vllm_config)
    if served is None or served.last == 0:
        return None
    found = []
    for name in {base_id(request.name) for request in followed.requests()}:
        status = answered.find(name) if followed.end else None
        if status is None:
            answers = await ask_engine_cores(engine, "longrope_request", name)
            status = next((RequestStatus(**answer) for answer in answers if answer is not None), None)
        if status is not None:
            found.append(status)
    return together(found) if found else None

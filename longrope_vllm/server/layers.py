"""Layers around the handlers of vLLM's routes for chat, completions and responses.

vLLM's route functions look their handler up in the app's state at every request, so that is where it is exchanged: the
route, its validation and its cancellation stay vLLM's own. A layer takes a handler and gives one that does something
before, after or around it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from fastapi import Request

Api = Literal["chat", "completions", "responses"]

Handler = Callable[[Any, Request], Awaitable[Any]]
"""From vLLM's request and the HTTP request to vLLM's response, its ``ErrorResponse``, or a stream.

A stream is an async generator: of text (whole server-sent events) for chat and completions, of event objects for
responses. A handler may raise; vLLM's exception handlers and that of ``ApiError`` answer.
"""

Layer = Callable[[Api, Handler], Handler]

_HANDLERS: dict[Api, tuple[str, str]] = {
    "chat": ("openai_serving_chat", "create_chat_completion"),
    "completions": ("openai_serving_completion", "create_completion"),
    "responses": ("openai_serving_responses", "create_responses"),
}
"""Attribute of the app's state and method, as in vLLM 0.25.1 to 0.33."""


def install(state: Any, layers: Sequence[Layer]) -> None:
    """Put ``layers`` around each handler that this server has, the first one innermost."""
    for api, (attribute, method) in _HANDLERS.items():
        serving = getattr(state, attribute, None)
        if serving is None:
            continue
        handler: Handler = getattr(serving, method)
        for layer in layers:
            handler = layer(api, handler)
        setattr(serving, method, handler)

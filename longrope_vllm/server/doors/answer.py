"""A refusal in ASGI: before any route has seen the request."""

from fastapi.responses import JSONResponse

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.asgi import Receive, Scope, Send

_POLICY_VIOLATION = 1008
"""Code by which a web socket is closed."""


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``error``: as JSON in OpenAI's form; a web socket that cannot be told gets closed."""
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
        await receive()  # its request to connect
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.body["code"]})
        return
    response = JSONResponse({"error": error.body}, status_code=error.status, headers=error.headers)
    await response(scope, receive, send)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that lower-case ``name``, as vLLM reads it."""
    return next((value.decode("latin-1") for known, value in scope["headers"] if known.lower() == name), None)

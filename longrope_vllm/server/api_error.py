"""Errors of our own routes and layers, answered in the form that OpenAI's clients read."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from longrope_vllm.errors import LongRopeError


class ApiError(LongRopeError):
    """An answer of HTTP status ``status`` that says what went wrong: ``{"error": {"message", "type", "code", ...}}``.

    ``code`` is what programs compare (``context_length_exceeded``), ``type`` the family OpenAI's clients know, and
    ``numbers`` whatever a client may want to compute with (``prompt_tokens=70000, limit=65536``).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        headers: dict[str, str] | None = None,
        **numbers: int,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body: dict[str, Any] = {"message": message, "type": type, "param": param, "code": code, **numbers}


async def answer_api_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of the app for ``ApiError``."""
    assert isinstance(error, ApiError)
    return JSONResponse({"error": error.body}, status_code=error.status, headers=error.headers)

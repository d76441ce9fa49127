"""What goes wrong in a request, as one sentence: the server's own where it said one.

In: errors of the ``openai`` SDK, and of the HTTP library under it, which SDKs before 3 let through from a stream. Out:
``FailedRequestError``.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from longrope_vllm.errors import ServerError

_HTTP_LIBRARIES = ("httpx", "httpx2")
_NUMBERS = ("prompt_tokens", "prompt_tokens_at_least", "max_tokens", "limit")


class FailedRequestError(ServerError):
    """A request that came to nothing. ``status`` is that of HTTP, ``details`` what else the server said of it."""

    def __init__(self, message: str, *, status: int | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.details = dict(details or {})


@contextmanager
def failures(openai: Any, *, url: str, limit: float) -> Iterator[None]:
    """Raise ``FailedRequestError`` for what goes wrong in the block, which waits for ``url`` ``limit`` s at a time."""
    try:
        yield
    except openai.APIStatusError as error:
        raise _refusal(error.body, url=url, status=error.status_code) from error
    except openai.APIConnectionError as error:
        raise _interruption(error.__cause__ or error, url=url, limit=limit) from error
    except openai.APIError as error:  # told in the stream, after its status
        raise _refusal(error.body, url=url, status=None) from error
    except _transport_errors() as error:
        raise _interruption(error, url=url, limit=limit) from error
    except ValueError as error:
        raise FailedRequestError(f"Expected JSON from {url}, found something else ({error}): check the URL.") from error


def _transport_errors() -> tuple[type[Exception], ...]:
    return tuple(module.RequestError for name in _HTTP_LIBRARIES if (module := sys.modules.get(name)) is not None)


def _interruption(error: BaseException, *, url: str, limit: float) -> FailedRequestError:
    kind = type(error).__name__
    if kind in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol"):
        reason = str(error) or "no answer"
        return FailedRequestError(f"Expected a server at {url}, found none that answers ({reason}): is it running?")
    if kind.endswith("Timeout") or isinstance(error, TimeoutError):
        return FailedRequestError(
            f"Expected a sign of life from {url} within {limit:g} s, found none: give a longer --timeout, or look "
            "at the server's log."
        )
    return FailedRequestError(
        f"Expected {url} to answer to the end, found the connection closed ({error or kind}): look at the server's log."
    )


def _refusal(body: object, *, url: str, status: int | None) -> FailedRequestError:
    details = body if isinstance(body, dict) else {}
    said = details.get("message") or details.get("detail") or (body if isinstance(body, str) else None)
    if details.get("code") == "context_length_exceeded":
        return FailedRequestError(_too_long(str(said), details), status=status, details=details)
    if status in (401, 403):
        message = f"Expected a key that {url} accepts, found HTTP {status} ({said}): give --api-key or OPENAI_API_KEY."
        return FailedRequestError(message, status=status, details=details)
    if not said or str(said).lstrip().startswith("<"):  # a page of some proxy
        said = f"Expected an answer from {url}, found HTTP {status} without a reason: look at the server's log."
    return FailedRequestError(str(said), status=status, details=details)


def _too_long(said: str, details: Mapping[str, Any]) -> str:
    """The server's sentence, its numbers where it did not write them out, and what can be done."""
    told = {name: details[name] for name in _NUMBERS if isinstance(details.get(name), int)}
    missing = {name: number for name, number in told.items() if not _states(said, number)}
    numbers = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in missing.items())
    sentence = said.rstrip(". ") + (f" ({numbers})" if numbers else "")
    return f"{sentence}. Ask about fewer or shorter files, lower --max-tokens, or serve with a larger --max-model-len."


def _states(said: str, number: int) -> bool:
    return str(number) in said or f"{number:,}" in said

"""A request to a server that came to nothing, as one sentence: refused, unanswered, late, or answered in another form.

In: errors of the ``openai`` SDK, which the caller has imported. Out: ``ServerError``, whose cause is the first one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from longrope_vllm.errors import ServerError

CONNECT_LIMIT = 10.0
"""Seconds in which a server takes a connection, however long it thinks afterwards."""


@contextmanager
def server_errors(openai: Any, *, url: str, path: str, limit: float) -> Iterator[None]:
    """Raise ``ServerError`` for what goes wrong in the block, one request for ``path`` of the server at ``url``.

    ``limit`` is how many seconds it may take.
    """
    try:
        yield
    except openai.APIStatusError as error:
        stated = error.body
        said = (stated.get("message") if isinstance(stated, dict) else None) or error.message
        raise ServerError(f"Expected an answer from {url}{path}, found HTTP {error.status_code}: {said}") from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        # The SDK makes one error of both time-outs of httpx: nobody there, and no answer in time.
        if isinstance(error, openai.APITimeoutError) and type(cause).__name__ != "ConnectTimeout":
            raise ServerError(
                f"Expected an answer from {url}{path} within {limit:.0f} s, found none: lower --concurrency."
            ) from error
        raise ServerError(
            f"Expected a server at {url}, found none that answers ({type(cause).__name__} {cause}): is it running?"
        ) from error
    except ValueError as error:
        raise ServerError(f"Expected JSON from {url}{path}, found something else ({error}): check the URL.") from error

"""How progress stands in a stream: llama.cpp's ``prompt_progress``, in the events of each API.

Chat and completions get a chunk without choices, which no client takes for a token; responses get the event
``response.in_progress`` again. Beside llama.cpp's four numbers stands ``queue_position`` while a request is queued.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from longrope_vllm.server.request_progress import RequestProgress

_CREATED = re.compile(r'(?<="created":)\d+')


class ProgressEvents(Protocol):
    """Makes the events of progress in one stream, and fits vLLM's own events to them."""

    is_open: bool
    """Whether vLLM has sent what it sends before the engine has to answer."""

    def passed(self, item: Any) -> Any:
        """vLLM's next ``item``, as it goes on."""

    def made(self, progress: RequestProgress) -> Any:
        """The item that tells ``progress``."""


class ChunkEvents:
    """Of chat or completions: items are text, one server-sent event each. ``model`` is known when one is made."""

    is_open = True

    def __init__(self, *, id: str, object: str, created: int, model: Callable[[], str]) -> None:
        self._id, self._object, self._created, self._model = id, object, created, model

    def passed(self, item: str) -> str:
        """``item`` with the time of the first chunk: vLLM takes its own when its generator begins."""
        return _CREATED.sub(str(self._created), item, count=1)

    def made(self, progress: RequestProgress) -> str:
        """A chunk that tells ``progress``."""
        chunk = {
            "id": self._id,
            "object": self._object,
            "created": self._created,
            "model": self._model(),
            "choices": [],
            "prompt_progress": prompt_progress(progress),
        }
        return f"data: {json.dumps(chunk)}\n\n"


class ResponseEvents:
    """Of responses: items are event objects, numbered without gaps."""

    def __init__(self) -> None:
        self.is_open = False
        self._opening: Any = None
        self._made = 0

    def passed(self, item: Any) -> Any:
        """A copy of ``item`` with its number among all events; a background response keeps the original."""
        if item.type == "response.in_progress":
            self._opening, self.is_open = item, True
        if not self._made:
            return item
        return item.model_copy(update={"sequence_number": item.sequence_number + self._made})

    def made(self, progress: RequestProgress) -> Any:
        """``response.in_progress`` with ``prompt_progress``."""
        self._made += 1
        number = self._opening.sequence_number + self._made
        return self._opening.model_copy(
            update={"sequence_number": number, "prompt_progress": prompt_progress(progress)}
        )


def prompt_progress(progress: RequestProgress) -> dict[str, int]:
    """``progress`` in llama.cpp's form."""
    told: dict[str, int] = asdict(progress.prompt)
    return told if progress.queue_position is None else {**told, "queue_position": progress.queue_position}

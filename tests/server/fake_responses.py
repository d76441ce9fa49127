"""What stands around the layers in a server: vLLM's handlers, its requests, and an engine that answers by script."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from longrope_vllm.plugin.followed import Followed, current


def engine_state(name: str = "cmpl-1-0-0f3c9d1e", *, prompt: int = 400) -> SimpleNamespace:
    """A ``RequestState`` of vLLM's output processor, as far as it is read."""
    tokens: list[int] = []
    return SimpleNamespace(
        request_id=name,
        prompt_len=prompt,
        num_cached_tokens=0,
        lora_name=None,
        tokens=tokens,
        detokenizer=SimpleNamespace(num_output_tokens=lambda: len(tokens)),
        stats=SimpleNamespace(scheduled_ts=0.0, first_token_ts=0.0),
    )


def first_token(state: SimpleNamespace, *, cached: int = 0, seconds: float = 2.0) -> None:
    """What vLLM notes with the first output of ``state``."""
    state.tokens.append(7)
    state.num_cached_tokens = cached
    state.stats = SimpleNamespace(scheduled_ts=100.0, first_token_ts=100.0 + seconds)


def told(state: str, *, position: int | None = None, cached: int = 0, processed: int = 0) -> dict[str, Any]:
    """How the engine core tells of a request."""
    return {
        "state": state,
        "queue_position": position,
        "prompt_tokens": 400,
        "cached_tokens": cached,
        "processed_tokens": processed,
        "output_tokens": 0,
        "prefill_seconds": 1.5 if state == "prefill" else None,
    }


@dataclass
class FakeEngine:
    """An engine client whose core answers questions one after the other, and waits when none is left.

    ``asked`` counts the questions; ``reached`` is set by the one that finds no answer.
    """

    answers: list[dict[str, Any] | Exception] = field(default_factory=list)
    asked: int = 0
    vllm_config: None = None

    def __post_init__(self) -> None:
        self.reached = asyncio.Event()
        self.engine_core = self

    async def call_utility_async(self, method: str, names: list[str]) -> dict[str, Any]:
        assert method == "longrope_progress"
        self.asked += 1
        if not self.answers:
            self.reached.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(names, answer)


@dataclass
class FakeStream:
    """A stream of vLLM: ``opening`` items, then a request to the engine, then ``items`` once ``output`` is set.

    An exception among the items is raised. ``closed`` is set when the generator was closed, however that happened.
    """

    opening: list[Any] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    states: list[SimpleNamespace] = field(default_factory=lambda: [engine_state()])
    cached: int = 0

    def __post_init__(self) -> None:
        self.output, self.closed = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> AsyncGenerator[Any, None]:
        try:
            for item in self.opening:
                yield item
            followed = current()
            assert followed is not None
            for state in self.states:
                followed.add(state)
            await self.output.wait()
            for number, item in enumerate(self.items):
                if isinstance(item, Exception):
                    raise item
                if not number:
                    for state in self.states:
                        first_token(state, cached=self.cached)
                yield item
        finally:
            self.closed.set()


def body(*, stream: bool = True, **fields: Any) -> SimpleNamespace:
    """A request as vLLM has parsed it; fields it does not know are ``model_extra``."""
    known = {name: fields.pop(name) for name in ("request_id", "background") if name in fields}
    return SimpleNamespace(**{"request_id": "1", "stream": stream, "model_extra": fields, **known})


def raw_request(*, token: str | None = None, name: str | None = None, **state: Any) -> Any:
    """The HTTP request, with an API key and an X-Request-Id if given, to an app with ``state``."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    if name is not None:
        headers["x-request-id"] = name
    models = SimpleNamespace(model_name=lambda: "tiny")
    return SimpleNamespace(
        scope={}, headers=headers, app=SimpleNamespace(state=SimpleNamespace(openai_serving_models=models, **state))
    )


def handler_of(answer: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    """A handler that returns what ``answer`` makes: a stream, a response, or an error that is raised."""

    async def handle(request: Any, raw: Any) -> Any:
        return answer()

    return handle


def answered(followed: Followed | None, **counts: Any) -> SimpleNamespace:
    """A whole response, whose engine request was made and answered on the way."""
    assert followed is not None
    state = engine_state(**counts)
    followed.add(state)
    first_token(state)
    return SimpleNamespace(id=followed.id)

"""Stored responses, each to its owner: vLLM's response store (``VLLM_ENABLE_RESPONSES_API_STORE``) has one for all.

vLLM keeps the responses, their messages, their events and the tasks behind them in dictionaries by the id of the
response, which a client may choose. Here they are kept by owner and id: another key's response is not found, not
cancelled and not replaced. What runs in the background belongs to whoever asked for it, because a task takes the
context along in which it is made.
"""

from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any

from fastapi import Request

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.server.asgi import App, Receive, Scope, Send
from longrope_vllm.server.owner import ANONYMOUS, owner_of

STORES = ("response_store", "msg_store", "event_store", "background_tasks")
"""Dictionaries of vLLM's handler of responses by the id of a response, as in vLLM 0.32."""

_owner: ContextVar[str] = ContextVar("longrope_owner", default=ANONYMOUS)


class OwnersOnly(MutableMapping[str, Any]):
    """A dictionary of which everybody sees the own part."""

    def __init__(self) -> None:
        self._of_all: dict[tuple[str, str], Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self._of_all[_owner.get(), name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._of_all[_owner.get(), name] = value

    def __delitem__(self, name: str) -> None:
        del self._of_all[_owner.get(), name]

    def __iter__(self) -> Iterator[str]:
        return (name for owner, name in self._of_all if owner == _owner.get())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def total(self) -> int:
        """How many there are of all owners together."""
        return len(self._of_all)


class TellOwner:
    """ASGI middleware by which the stores know whose request is served."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            keyed = getattr(scope["app"].state, "longrope_keyed", False)
            _owner.set(owner_of(Request(scope), keyed=keyed))
        await self._app(scope, receive, send)


def install(state: Any, *, keyed: bool) -> None:
    """Exchange the stores of this server's handler of responses, if it has one.

    Raises ``UnsupportedError`` where responses are to be stored and this vLLM has other stores.
    """
    state.longrope_keyed = keyed
    serving = getattr(state, "openai_serving_responses", None)
    known = [name for name in STORES if hasattr(serving, name)]
    if len(known) < len(STORES) and getattr(serving, "enable_store", False):
        raise UnsupportedError(
            f"Expected {', '.join(STORES)} where vLLM stores responses, found {', '.join(known) or 'none of them'}: "
            "unset VLLM_ENABLE_RESPONSES_API_STORE, or take vLLM 0.32."
        )
    for name in known:
        setattr(serving, name, OwnersOnly())


def in_background(state: Any) -> int:
    """Responses that are made in the background now, of all owners together."""
    tasks = getattr(getattr(state, "openai_serving_responses", None), "background_tasks", None)
    return tasks.total() if isinstance(tasks, OwnersOnly) else len(tasks or ())

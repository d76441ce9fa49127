"""Layers around the tokenization of one request's prompts, below the layers around its handler.

vLLM renders chats, completions and responses into prompts and hands them, texts or token ids, to its renderer with the
limits that hold for them. That method of the server's one renderer is exchanged here, so that whoever handles a request
can see its prompts as they are, templates applied, and how many tokens they become, before anything is generated.

Prompts and parameters are vLLM's own: dictionaries (``prompt``, ``prompt_token_ids``) and ``TokenizeParams``. Models
with the Harmony format (gpt-oss) do not come by here: their renderer makes token ids at once.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

Tokenize = Callable[[Sequence[Any], Any], Awaitable[Sequence[Any]]]
"""From prompts and parameters to prompts that hold ``prompt_token_ids``, in the same order."""

Around = Callable[[Tokenize, Sequence[Any], Any], Awaitable[Sequence[Any]]]
"""Calls the ``Tokenize`` it is given, or something in its place."""

_arounds: ContextVar[tuple[Around, ...]] = ContextVar("longrope_tokenization", default=())


@contextmanager
def tokenizing(around: Around) -> Iterator[None]:
    """Put ``around`` about the tokenization of every prompt of this task, inside of those that are there already."""
    before = _arounds.set((*_arounds.get(), around))
    try:
        yield
    finally:
        _arounds.reset(before)


def install(renderer: Any) -> None:
    """Let ``tokenizing`` reach the prompts of ``renderer``; requests without it go their way as before."""
    original: Tokenize = renderer.tokenize_prompts_async

    async def tokenize_prompts_async(prompts: Sequence[Any], params: Any) -> Sequence[Any]:
        tokenize = original
        for around in reversed(_arounds.get()):
            tokenize = partial(around, tokenize)
        return await tokenize(prompts, params)

    renderer.tokenize_prompts_async = tokenize_prompts_async


def text_of(prompt: Any) -> str | None:
    """The text that a prompt is going to be tokenized from; None for token ids, embeddings and what holds images."""
    alone = not any(prompt.get(name) for name in ("prompt_token_ids", "multi_modal_data", "multi_modal_uuids"))
    text = prompt.get("prompt")
    return text if alone and isinstance(text, str) else None


def tokens_of(prompt: Any) -> int | None:
    """Number of tokens of a prompt that has been tokenized; None for embeddings and pairs of prompts."""
    ids = prompt.get("prompt_token_ids")
    return None if ids is None else len(ids)

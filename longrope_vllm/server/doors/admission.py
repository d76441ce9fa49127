"""Where the limits of a key meet a request: at the door, at its prompt, at the engine, and at its end.

A ticket is opened at the door and goes along in a context variable. Chat, completions and responses come by with all of
their prompts tokenized, before anything is answered; whatever else gives a prompt to the engine is met there. So no
route that vLLM adds goes uncounted.

A request that is retried may outlive its connection (``server/joining.py``), and so may a background response: the
layer settles the ticket of what it handles, the door that of everything else.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any
from weakref import finalize

from fastapi import Request

from longrope_vllm.plugin.followed import Followed, current, following
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server.doors.account import Account, LongRequests, Ticket
from longrope_vllm.server.doors.queue_estimate import QueueEstimate
from longrope_vllm.server.doors.settings import LONG_REQUEST, door_settings
from longrope_vllm.server.layers import Api, Handler, Layer
from longrope_vllm.server.tokenization import Tokenize, tokenizing, tokens_of

_ticket: ContextVar[Ticket | None] = ContextVar("longrope_ticket", default=None)


def open_admission(state: Any, engine: Any, arguments: Any) -> Layer:
    """Keep in the app's ``state`` what the door needs, watch what enters ``engine``, and give the layer."""
    state.longrope_queue = queue = QueueEstimate(engine)
    served = None if engine is None else ServedTiers.from_vllm_config(engine.vllm_config)
    first = LONG_REQUEST if served is None else served.max_length(0)
    threshold = door_settings(arguments).long_request or first
    state.longrope_long = LongRequests(threshold=threshold, wait=queue.seconds)
    if engine is not None:
        engine.generate, engine.encode = _entering(engine.generate), _entering(getattr(engine, "encode", None))
    return layer(queue)


@contextmanager
def ticket_for(account: Account, long: LongRequests) -> Iterator[Ticket]:
    """The ticket of whatever is done within, settled at the end unless a layer took it."""
    ticket, followed = Ticket(account, long), Followed("")
    token = _ticket.set(ticket)
    try:
        with following(followed):
            yield ticket
    finally:
        _ticket.reset(token)
        followed.close("finished")
        if not ticket.taken:
            ticket.settle(_output_tokens(followed))


def layer(queue: QueueEstimate) -> Layer:
    """Hold requests to the limits of their key, and let ``queue`` learn from them; inside of ``requests.follow``."""

    def around(api: Api, handler: Handler) -> Handler:
        async def admitted(request: Any, raw_request: Request) -> Any:
            ticket, followed = _ticket.get(), current()
            assert followed is not None, "the layer of requests.follow stands around this one"
            if ticket is not None:
                ticket.taken = True
            ending = ExitStack()
            ending.callback(_end, queue, followed, ticket)
            with ending:
                with nullcontext() if ticket is None else tokenizing(_admitting(ticket)):
                    answer = await handler(request, raw_request)
                task = _background_task(request, raw_request, followed)
                if task is not None:
                    rest = ending.pop_all()
                    task.add_done_callback(lambda _: rest.close())
                elif isinstance(answer, AsyncGenerator):
                    rest = ending.pop_all()
                    answer = _settled_stream(answer, rest)
                    finalize(answer, rest.close)  # a client may leave before the stream begins
            return answer

        return admitted

    return around


def _admitting(ticket: Ticket) -> Callable[[Tokenize, Sequence[Any], Any], Any]:
    async def admitting(tokenize: Tokenize, prompts: Sequence[Any], params: Any) -> Sequence[Any]:
        tokenized = await tokenize(prompts, params)
        ticket.admit_whole([tokens_of(prompt) or 0 for prompt in tokenized])
        return tokenized

    return admitting


def _end(queue: QueueEstimate, followed: Followed, ticket: Ticket | None) -> None:
    queue.observe(followed.requests())
    if ticket is not None:
        ticket.settle(_output_tokens(followed))


def _output_tokens(followed: Followed) -> int:
    return sum(request.output_tokens for request in followed.requests())


def _background_task(request: Any, raw_request: Request, followed: Followed) -> Any:
    """The task of a response that is made in the background, None for any other."""
    if not getattr(request, "background", False):
        return None
    return raw_request.app.state.openai_serving_responses.background_tasks.get(followed.id)


async def _settled_stream(inner: AsyncGenerator[Any, None], ending: ExitStack) -> AsyncGenerator[Any, None]:
    try:
        async for item in inner:
            yield item
    finally:
        ending.close()
        await inner.aclose()


def _entering(original: Any) -> Any:
    """vLLM's ``generate`` or ``encode``, called: it raises before anything is answered, also for a stream."""

    def enter(prompt: Any, *args: Any, **kwargs: Any) -> Any:
        ticket = _ticket.get()
        if ticket is not None:
            ticket.enter(_length(prompt))
        return original(prompt, *args, **kwargs)

    return enter


def _length(prompt: Any) -> int:
    """Tokens of one of the engine's prompts; 0 for one that is still being spoken."""
    if not isinstance(prompt, dict):
        return 0
    given = prompt.get("prompt_token_ids")
    if given is None:
        given = prompt.get("prompt_embeds")
    return 0 if given is None else len(given)

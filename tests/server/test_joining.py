"""Retried requests join the first attempt: every rule, on fakes of vLLM's handler and an event loop of its own time."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_vllm.server.joining import GRACE, Joining
from longrope_vllm.server.layers import Api

PATIENCE = 600.0


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until a test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@dataclass(eq=False)
class Handled:
    """One request in the fake handler."""

    outcome: asyncio.Future[Any]
    cancelled: bool = False


@dataclass(eq=False)
class World:
    """The layer, what has come through it, and who waits."""

    layer: Joining = field(default_factory=Joining)
    handled: list[Handled] = field(default_factory=list)
    connections: list[asyncio.Task[Any]] = field(default_factory=list)

    async def handler(self, request: Any, raw_request: Any) -> Any:
        one = Handled(asyncio.get_running_loop().create_future())
        self.handled.append(one)
        try:
            return await one.outcome
        except asyncio.CancelledError:
            one.cancelled = True
            raise

    async def connect(
        self,
        retries: int | None = 0,
        *,
        api: Api = "chat",
        body: bytes = b"{}",
        owner: str | None = None,
        patience: str | None = str(PATIENCE),
        key: str | None = None,
        stream: bool = False,
        node: bool = False,
    ) -> asyncio.Task[Any]:
        """A connection, as the task in which vLLM answers it; cancelled when the client goes."""
        waits = "x-stainless-timeout" if node else "x-stainless-read-timeout"
        stated = {
            "x-stainless-retry-count": None if retries is None else str(retries),
            waits: patience,
            "idempotency-key": key,
            "authorization": owner,
        }
        headers = {name: value for name, value in stated.items() if value is not None}
        raw_request: Any = SimpleNamespace(headers=headers, body=lambda: soon(body))
        answer = self.layer(api, self.handler)(SimpleNamespace(stream=stream), raw_request)
        connection = asyncio.ensure_future(answer)
        self.connections.append(connection)
        await settle()
        return connection

    async def leave(self, connection: asyncio.Task[Any], *, after: float = PATIENCE) -> None:
        await passed(after)
        connection.cancel()
        await settle()

    async def finish(self, number: int, outcome: Any = "answer") -> None:
        future = self.handled[number].outcome
        future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)
        await settle()


async def soon(value: bytes) -> bytes:
    return value


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(12):
        await asyncio.sleep(0)


async def passed(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.now += seconds
    await settle()


def in_a_world(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run ``scenario`` and assert that it leaves no task and no entry once the time of grace is over."""

    async def run() -> None:
        world = World()
        await scenario(world)
        for connection in world.connections:
            connection.cancel()
        await settle()
        await passed(GRACE + 1)
        assert len(world.layer) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    complaints: list[Any] = []
    loop = Loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    assert not complaints


def test_a_retry_joins_the_running_request_and_gets_its_answer() -> None:
    async def scenario(world: World) -> None:
        first = await world.connect(0)
        await world.leave(first)
        retry = await world.connect(1)
        await world.finish(0)
        assert retry.result() == "answer"
        assert len(world.handled) == 1

    in_a_world(scenario)


def test_a_retry_that_comes_before_the_first_connection_is_seen_to_close_joins() -> None:
    async def scenario(world: World) -> None:
        first = await world.connect(0)
        await passed(PATIENCE)
        retry = await world.connect(1)
        await world.leave(first, after=1)
        await world.finish(0)
        assert (retry.result(), len(world.handled)) == ("answer", 1)

    in_a_world(scenario)


def test_a_retry_gets_an_answer_that_was_finished_while_nobody_waited() -> None:
    async def scenario(world: World) -> None:
        await world.leave(await world.connect(0))
        await world.finish(0)
        await passed(GRACE - 1)
        assert (await (await world.connect(1)), len(world.handled)) == ("answer", 1)

    in_a_world(scenario)


def test_two_equal_requests_are_two_requests() -> None:
    async def scenario(world: World) -> None:
        await world.connect(0)
        await world.connect(0)
        assert len(world.handled) == 2

    in_a_world(scenario)


@pytest.mark.parametrize(("patience", "after"), [(str(PATIENCE), PATIENCE - 60), (None, 10_000)])
def test_a_retry_after_a_refusal_leaves_an_equal_request_that_is_waited_for_alone(
    patience: str | None, after: float
) -> None:
    async def scenario(world: World) -> None:
        await world.connect(0, patience=patience)
        await passed(after)
        await world.connect(1)
        assert len(world.handled) == 2

    in_a_world(scenario)


def test_retries_of_two_equal_requests_join_one_each() -> None:
    async def scenario(world: World) -> None:
        for retries in (0, 0, 1, 1):
            await world.connect(retries)
            await passed(PATIENCE)
        await world.finish(0, "one")
        await world.finish(1, "other")
        assert [connection.result() for connection in world.connections] == ["one", "other", "one", "other"]

    in_a_world(scenario)


def test_a_retry_prefers_the_request_that_nobody_waits_for() -> None:
    async def scenario(world: World) -> None:
        _, second = await world.connect(0), await world.connect(0)
        await world.leave(second)
        retry = await world.connect(1)
        await world.finish(1, "deserted")
        assert retry.result() == "deserted"

    in_a_world(scenario)


@pytest.mark.parametrize(
    "other", [{"body": b"{ }"}, {"api": "completions"}, {"owner": "Bearer other"}, {"key": "other"}, {"retries": 0}]
)
def test_what_is_not_the_same_request_does_not_join(other: dict[str, Any]) -> None:
    async def scenario(world: World) -> None:
        await world.leave(await world.connect(0, owner="Bearer one", key=other.get("key") and "one"))
        await world.connect(**{"retries": 1, "owner": "Bearer one", **other})
        assert len(world.handled) == 2

    in_a_world(scenario)


def test_requests_with_one_idempotency_key_join_whatever_they_count() -> None:
    async def scenario(world: World) -> None:
        both = [await world.connect(None, key="one"), await world.connect(None, key="one")]
        await world.finish(0)
        assert [connection.result() for connection in both] == ["answer", "answer"]

    in_a_world(scenario)


@pytest.mark.parametrize("unjoined", [{"stream": True}, {"retries": None}])
def test_streams_and_clients_that_do_not_retry_pass_through(unjoined: dict[str, Any]) -> None:
    async def scenario(world: World) -> None:
        connection = await world.connect(**unjoined)
        assert len(world.layer) == 0
        connection.cancel()
        await settle()
        assert world.handled[0].cancelled

    in_a_world(scenario)


def test_a_background_request_passes_through() -> None:
    async def scenario(world: World) -> None:
        raw_request: Any = SimpleNamespace(headers={"x-stainless-retry-count": "0"}, body=lambda: soon(b""))
        request = SimpleNamespace(stream=False, background=True)
        asyncio.ensure_future(world.layer("responses", world.handler)(request, raw_request)).cancel()
        await settle()
        assert len(world.layer) == 0

    in_a_world(scenario)


@pytest.mark.parametrize(
    ("patience", "after", "kept"),
    [
        ("600", 600, True),
        ("600.0", 571, True),
        ("600", 569, False),
        ("600", 0.5, False),
        ("5", 4.1, True),
        ("5", 3.9, False),
        (None, 10_000, False),
        ("soon", 10_000, False),
        ("nan", 10_000, False),
    ],
)
@pytest.mark.parametrize("node", [False, True])
def test_only_a_client_that_waited_as_long_as_it_said_is_waited_for(
    patience: str | None, after: float, kept: bool, node: bool
) -> None:
    async def scenario(world: World) -> None:
        await world.leave(await world.connect(0, patience=patience, node=node), after=after)
        assert len(world.layer) == kept
        assert world.handled[0].cancelled != kept
        await passed(GRACE + 1)
        assert world.handled[0].cancelled

    in_a_world(scenario)


def test_a_client_that_joins_and_leaves_early_ends_the_request() -> None:
    async def scenario(world: World) -> None:
        await world.leave(await world.connect(0))
        await world.leave(await world.connect(1), after=5)
        assert world.handled[0].cancelled

    in_a_world(scenario)


def test_one_that_leaves_does_not_disturb_the_others() -> None:
    async def scenario(world: World) -> None:
        first, second, third = [await world.connect(None, key="one") for _ in range(3)]
        await world.leave(second, after=1)
        await world.leave(first, after=1)
        await world.finish(0)
        assert third.result() == "answer"

    in_a_world(scenario)


def test_an_error_reaches_everyone_who_waits() -> None:
    async def scenario(world: World) -> None:
        both = [await world.connect(None, key="one"), await world.connect(None, key="one")]
        await world.finish(0, ValueError("no"))
        assert [str(connection.exception()) for connection in both] == ["no", "no"]

    in_a_world(scenario)


def test_an_error_that_nobody_waits_for_is_handed_to_the_retry() -> None:
    async def scenario(world: World) -> None:
        await world.leave(await world.connect(0))
        await world.finish(0, ValueError("no"))
        assert str((await world.connect(1)).exception()) == "no"

    in_a_world(scenario)


def test_an_answer_that_two_get_is_not_shared() -> None:
    async def scenario(world: World) -> None:
        both = [await world.connect(None, key="one"), await world.connect(None, key="one")]
        await world.finish(0, {"choices": [{"text": "answer"}]})
        one, other = [connection.result() for connection in both]
        one["choices"][0]["text"] = "changed"
        assert other == {"choices": [{"text": "answer"}]}

    in_a_world(scenario)


def test_a_large_body_is_hashed_beside_the_event_loop() -> None:
    async def run() -> None:  # in real time, as threads take
        world, body = World(), bytes(2_000_000)
        first = await world.connect(0, body=body, patience="0")
        while not world.handled:
            await asyncio.sleep(0.01)
        first.cancel()
        await settle()
        await world.finish(0)
        assert await (await world.connect(1, body=body)) == "answer"
        assert (len(world.handled), len(world.layer)) == (1, 0)

    asyncio.run(run())


STEPS = st.one_of(
    st.tuples(st.just("connect"), st.integers(0, 3), st.sampled_from([None, "key"])),
    st.tuples(st.just("leave"), st.integers(0, 20), st.sampled_from([0.0, 1.0, PATIENCE])),
    st.tuples(st.just("finish"), st.integers(0, 20), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, GRACE / 2, GRACE + 1]), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_whatever_connects_leaves_and_finishes_each_gets_its_answer_and_nothing_stays(
    steps: list[tuple[str, Any, Any]],
) -> None:
    async def scenario(world: World) -> None:
        left: set[int] = set()
        for step, number, how in steps:
            if step == "connect":
                before = len(world.handled)
                connection = await world.connect(number, key=how)
                if number == 0 and how is None:
                    assert len(world.handled) == before + 1  # a first attempt is always a request of its own
                assert len(world.handled) - before <= 1
                assert connection.done() or any(not one.outcome.done() for one in world.handled)
            elif step == "leave" and world.connections:
                index = number % len(world.connections)
                if not world.connections[index].done():
                    left.add(index)
                await world.leave(world.connections[index], after=how)
            elif step == "finish" and world.handled:
                index = number % len(world.handled)
                if not world.handled[index].outcome.done():
                    await world.finish(index, f"answer {index}" if how else ValueError(f"error {index}"))
            elif step == "wait":
                await passed(number)
        for index, one in enumerate(world.handled):
            if not one.outcome.done():
                await world.finish(index, f"answer {index}")
        for index, connection in enumerate(world.connections):
            assert connection.done()
            assert connection.cancelled() == (index in left)  # nobody is cancelled by anybody else
        served = [connection for index, connection in enumerate(world.connections) if index not in left]
        outcomes = {str(connection.exception() or connection.result()) for connection in served}
        assert outcomes <= {f"{kind} {index}" for kind in ("answer", "error") for index in range(len(world.handled))}

    in_a_world(scenario)

"""The two ways to verify: a server that runs, or a model for which servers are started one after another.

Servers are started and ended outside the event loop, so that an interrupt reaches whoever waits for them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from longrope_vllm.errors import ServerError
from longrope_vllm.server.running import running
from longrope_vllm.verification.answers import TierInForce
from longrope_vllm.verification.client import Server
from longrope_vllm.verification.findings import skipped
from longrope_vllm.verification.report import Report
from longrope_vllm.verification.schedule import (
    Examined,
    Exchange,
    Record,
    Scope,
    compare_with,
    examine,
    exchanges,
    tiers_in_force,
)
from longrope_vllm.verification.servers import Deployment, Start

START_LIMIT = 1800.0
"""Seconds in which a started server has to answer; large weights take their time."""
CHUNKS, SHORT = "chunk size", "short answers"
CHUNKS_COMPARED = "a server that cuts prompts into other chunks"
SHORT_COMPARED = "a server of the shortest tier alone"


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to speak to a server."""

    model: str | None
    """Its name there; None for the only one."""
    api_key: str | None


@dataclass(frozen=True, kw_only=True)
class First:
    """What the server under examination told and answered."""

    model: str
    vllm: str
    tiers: tuple[TierInForce, ...]
    examined: Examined | None
    asked: tuple[Exchange, ...] = ()
    """What other servers will be asked too."""

    @property
    def asked_short(self) -> tuple[Exchange, ...]:
        """What a server of the shortest tier alone can be asked as well."""
        return tuple(each for each in self.asked if each.question.tokens <= self.tiers[0].max_length)


def verify_url(url: str, access: Access, *, reference: str | None, scope: Scope, record: Record) -> Report:
    """Verify a running server; ``reference`` is one of the shortest tier alone, if there is one."""
    clock = _Clock()
    alone = _alone if reference is None else _up_to_shortest
    first = asyncio.run(_first(url, access, scope, record, alone))
    if first.examined is not None:
        reason = "the chunk size of a running server is fixed, only neighbours vary it; verify the MODEL to vary it"
        record.add(CHUNKS, skipped(CHUNKS_COMPARED, reason))
        if reference is None:
            reason = "needs a second server: name one with --reference URL, or verify the MODEL"
            record.add(SHORT, skipped(SHORT_COMPARED, reason))
        elif first.asked:
            asyncio.run(_compare(reference, access, first, first.asked, SHORT, reference, record))
    return _report(url, first, scope, record, clock)


def verify_model(
    deployment: Deployment,
    access: Access,
    *,
    scope: Scope,
    record: Record,
    logs: Path,
    waiting: Callable[[str, float], None],
) -> Report:
    """Verify ``deployment`` with servers started here; ``waiting`` is told which one starts and for how many seconds.

    Raises ``ServerError`` when the server under examination does not start; without another one its check is skipped.
    """
    clock = _Clock()
    start = _Starter(logs=logs, environment={"VLLM_API_KEY": access.api_key or ""})
    with start.running(deployment.as_served(), "served", waiting) as url:
        first = asyncio.run(_first(url, access, scope, record, _up_to_longest))
    if first.asked:
        shortest = first.tiers[0]
        others = (
            (CHUNKS, deployment.other_chunks(shortest.max_length, scope.concurrency), first.asked),
            (SHORT, deployment.shortest_tier(shortest.max_length, unmodified=shortest.own), first.asked_short),
        )
        for name, other, asked in others:
            try:
                with start.running(other, name.replace(" ", "-"), waiting) as url:
                    asyncio.run(_compare(url, access, first, asked, name, other.described, record))
            except ServerError as error:
                reason = f"{other.described} did not start: {str(error).splitlines()[0]}"
                record.add(name, skipped(f"answers of {other.described}", reason))
    return _report(deployment.model, first, scope, record, clock)


Asking = Callable[[First, Record], Awaitable[tuple[Exchange, ...]]]
"""What to ask for a comparison with other servers, once a server was examined."""


async def _first(url: str, access: Access, scope: Scope, record: Record, asking: Asking) -> First:
    async with Server(url, model=access.model, api_key=access.api_key) as server:
        vllm = await server.version()
        tiers = await tiers_in_force(server, record)
        examined = await examine(server, tiers, scope=scope, record=record) if tiers else None
        first = First(model=server.model, vllm=vllm, tiers=tiers, examined=examined)
        return first if examined is None else replace(first, asked=await asking(first, record))


async def _alone(first: First, record: Record) -> tuple[Exchange, ...]:
    return ()


async def _up_to_shortest(first: First, record: Record) -> tuple[Exchange, ...]:
    assert first.examined is not None
    return await exchanges(first.examined, record, longest=first.tiers[0].max_length)


async def _up_to_longest(first: First, record: Record) -> tuple[Exchange, ...]:
    assert first.examined is not None
    return await exchanges(first.examined, record, longest=first.tiers[-1].max_length)


async def _compare(
    url: str, access: Access, first: First, asked: tuple[Exchange, ...], name: str, described: str, record: Record
) -> None:
    assert first.examined is not None
    async with Server(url, model=access.model, api_key=access.api_key) as server:
        await server.tiers()  # and with them the policy, which decides how it has to be asked
        await compare_with(server, first.examined, asked, name=name, compared=described, record=record)


@dataclass(frozen=True, kw_only=True)
class _Starter:
    logs: Path
    environment: Mapping[str, str]

    @contextmanager
    def running(self, start: Start, name: str, waiting: Callable[[str, float], None]) -> Iterator[str]:
        """URL of the server of ``start``, its log under ``name``."""
        with running(
            start.module,
            start.options,
            environment={**self.environment, **dict(start.environment)},
            log=self.logs / f"{name}.log",
            within=START_LIMIT,
            waiting=lambda seconds: waiting(start.described, seconds),
        ) as server:
            yield server.url


class _Clock:
    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._began = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began


def _report(target: str, first: First, scope: Scope, record: Record, clock: _Clock) -> Report:
    return Report(
        target=target,
        model=first.model,
        started=clock.started,
        seconds=clock.seconds(),
        seed=scope.seed,
        vllm=first.vllm,
        tiers=first.tiers,
        results=tuple(record.results),
    )

"""Which checks run on a server and in which order; each of them is timed, and none ends the others."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from longrope_vllm.errors import ServerError
from longrope_vllm.verification.answers import Answer, Question, TierInForce
from longrope_vllm.verification.boundary import tier_choice
from longrope_vllm.verification.client import Server
from longrope_vllm.verification.crossing import crossing, crossing_under_load
from longrope_vllm.verification.elsewhere import questions_everywhere, same_answers
from longrope_vllm.verification.equality import Tolerance
from longrope_vllm.verification.extents import Extent, boundaries, extents
from longrope_vllm.verification.findings import Finding, skipped
from longrope_vllm.verification.needle import needle
from longrope_vllm.verification.neighbours import neighbours
from longrope_vllm.verification.noise import noise, sensitivity
from longrope_vllm.verification.prefix_cache import prefix_isolation
from longrope_vllm.verification.prompts import prompts_of
from longrope_vllm.verification.subject import Pace, Subject

AT_BOUNDARIES = {
    "sensitivity": sensitivity,
    "crossing": crossing,
    "crossing under load": crossing_under_load,
    "neighbours": neighbours,
    "prefix cache": prefix_isolation,
}
"""Checks made at every boundary: name to function of a subject, a tolerance and a boundary."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the report."""

    name: str
    finding: Finding
    seconds: float


@dataclass(kw_only=True)
class Record:
    """The results so far; tells who watches when a check begins, what it asks, and when it ends."""

    began: Callable[[str], None]
    asking: Callable[[str], None]
    ended: Callable[[Result], None]
    results: list[Result] = field(default_factory=list)

    async def check(self, name: str, finding: Awaitable[Finding]) -> None:
        """Await one check; a server that does not answer fails it."""
        self.began(name)
        started = time.monotonic()
        try:
            found = await finding
        except ServerError as error:
            found = Finding(status="failed", compared="requests that the server has to answer", reason=str(error))
        self.add(name, found, seconds=time.monotonic() - started)

    def add(self, name: str, finding: Finding, *, seconds: float = 0.0) -> None:
        """Note a finding."""
        result = Result(name=name, finding=finding, seconds=seconds)
        self.results.append(result)
        self.ended(result)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is known after a server was examined, for a comparison with other servers."""

    subject: Subject
    tolerance: Tolerance
    tiers: tuple[Extent, ...]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question and the answer of the server under examination."""

    question: Question
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How much is asked."""

    long: int | None
    """Longest prompt with its answer, in tokens; None for all that is served."""
    concurrency: int
    seed: int


async def tiers_in_force(server: Server, record: Record) -> tuple[TierInForce, ...]:
    """The tiers, and whether there are any, as the first result."""
    record.began("tiers")
    tiers = await server.tiers()
    compared = "GET /v1/longrope"
    if tiers:
        lengths = ", ".join(f"{tier.max_length:,}" for tier in tiers)
        record.add("tiers", Finding(status="passed", compared=f"{compared}: tiers up to {lengths} tokens"))
    else:
        reason = (
            f"{server.model} at {server.url} is served without tiers, so its requests share one rope: use longrope "
            "serve with a longrope checkpoint or --factors (under vllm serve, vLLM 0.27 and later, the variable "
            "VLLM_PLUGINS has to name longrope)"
        )
        record.add("tiers", Finding(status="failed", compared=compared, reason=reason))
    return tiers


async def examine(server: Server, tiers: tuple[TierInForce, ...], *, scope: Scope, record: Record) -> Examined | None:
    """Every check that one running server allows; None when it did not answer the first of them."""
    lengths = [tier.max_length for tier in tiers]
    limit = min(scope.long or lengths[-1], lengths[-1])
    testable = extents(lengths, limit)
    subject = Subject(
        server=server,
        prompts=await prompts_of(server, seed=scope.seed),
        concurrency=scope.concurrency,
        pace=Pace(record.asking),
    )
    measured: list[Tolerance] = []
    await record.check("noise", _kept(noise(subject, testable), measured))
    if not measured:
        return None
    (tolerance,) = measured
    for boundary in boundaries(testable):
        await record.check(f"boundary {boundary.at:,}", tier_choice(subject, boundary))
        for name, check in AT_BOUNDARIES.items():
            await record.check(f"{name} {boundary.at:,}", check(subject, tolerance, boundary))
    for length in lengths[len(testable) - 1 : -1]:
        record.add(f"boundary {length:,}", skipped("all checks at this boundary", f"beyond --long {limit:,}"))
    if len(tiers) == 1:
        record.add("boundaries", skipped("all checks at boundaries", "one tier is in force, there is no boundary"))
    await record.check("needle", needle(subject, server, testable[-1]))
    return Examined(subject=subject, tolerance=tolerance, tiers=testable)


async def exchanges(examined: Examined, record: Record, *, longest: int) -> tuple[Exchange, ...]:
    """Questions of at most ``longest`` tokens for other servers, with the answers of this one; none if it has none."""
    name = "answers to compare"
    record.began(name)
    everywhere = questions_everywhere(examined.subject, examined.tiers)
    questions = [question for question in everywhere if question.tokens <= longest]
    try:
        answers = await examined.subject.alone(questions)
    except ServerError as error:
        record.add(name, Finding(status="failed", compared="questions for other servers", reason=str(error)))
        return ()
    return tuple(
        Exchange(question=question, answer=answer) for question, answer in zip(questions, answers, strict=True)
    )


async def compare_with(
    server: Server, examined: Examined, asked: Sequence[Exchange], *, name: str, compared: str, record: Record
) -> None:
    """What was ``asked`` of the server under examination, asked of another one."""
    first = examined.subject
    other = Subject(server=server, prompts=first.prompts, concurrency=first.concurrency, pace=Pace(record.asking))
    longest = max(exchange.question.tokens for exchange in asked)
    finding = same_answers(
        other,
        examined.tolerance,
        questions=[exchange.question for exchange in asked],
        expected=[exchange.answer for exchange in asked],
        compared=f"{len(asked)} answers, up to {longest:,} tokens, with those of {compared}",
    )
    await record.check(name, finding)


async def _kept(pair: Awaitable[tuple[Finding, Tolerance]], tolerances: list[Tolerance]) -> Finding:
    finding, tolerance = await pair
    tolerances.append(tolerance)
    return finding

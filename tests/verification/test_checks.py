"""Each check against a server that is right, and against one that has the fault the check is for."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fake_server import (
    VOCABULARY,
    FakeServer,
    of_the_beginning,
    of_the_cached_blocks,
    of_the_longest_in_the_batch,
    of_the_longest_tier,
    subject_of,
)

from longrope_vllm.verification.answers import Answer, Question, Served, Step
from longrope_vllm.verification.boundary import tier_choice
from longrope_vllm.verification.crossing import crossing, crossing_under_load
from longrope_vllm.verification.elsewhere import questions_everywhere, same_answers
from longrope_vllm.verification.equality import Tolerance
from longrope_vllm.verification.extents import ROOM, Boundary, boundaries, extents
from longrope_vllm.verification.findings import Finding
from longrope_vllm.verification.neighbours import neighbours
from longrope_vllm.verification.noise import noise, sensitivity
from longrope_vllm.verification.prefix_cache import prefix_isolation
from longrope_vllm.verification.schedule import AT_BOUNDARIES
from longrope_vllm.verification.subject import Subject

TIERS = (200, 400, 800)
TIERS_EXTENTS = extents(TIERS, TIERS[-1])
EXACT = Tolerance.from_noise([], step=0.0)

Check = Callable[[Subject, Tolerance, Boundary], Awaitable[Finding]]


def run(check: Check, server: FakeServer, tolerance: Tolerance = EXACT) -> list[Finding]:
    """``check`` at every boundary of ``server``."""

    async def all_of_them() -> list[Finding]:
        return [await check(subject_of(server), tolerance, boundary) for boundary in boundaries(TIERS_EXTENTS)]

    return asyncio.run(all_of_them())


async def choice(subject: Subject, tolerance: Tolerance, boundary: Boundary) -> Finding:
    return await tier_choice(subject, boundary)


def measured_noise(server: FakeServer) -> tuple[Finding, Tolerance]:
    return asyncio.run(noise(subject_of(server), TIERS_EXTENTS))


@pytest.mark.parametrize("check", [choice, *AT_BOUNDARIES.values()])
def test_a_right_server_passes(check: Check) -> None:
    findings = run(check, FakeServer(*TIERS))
    assert [finding.status for finding in findings] == ["passed", "passed"]


@pytest.mark.parametrize("check", [choice, *AT_BOUNDARIES.values()])
def test_a_right_server_passes_with_the_noise_of_bfloat16(check: Check) -> None:
    server = FakeServer(*TIERS)
    server.noise = 0.04
    finding, tolerance = measured_noise(server)
    assert finding.status == "information"
    assert [found.status for found in run(check, server, tolerance)] == ["passed", "passed"]


@pytest.mark.parametrize(
    ("rope", "check"),
    [
        (of_the_longest_in_the_batch, neighbours),
        (of_the_beginning, crossing),
        (of_the_beginning, crossing_under_load),
        (of_the_cached_blocks, prefix_isolation),
    ],
)
@pytest.mark.parametrize("noise_level", [0.0, 0.04])
def test_a_wrong_rope_fails_the_check_that_is_for_it(
    rope: Callable[..., int], check: Check, noise_level: float
) -> None:
    server = FakeServer(*TIERS, rope=rope)
    server.noise = noise_level
    _, tolerance = measured_noise(server)
    assert [finding.status for finding in run(check, server, tolerance)] == ["failed", "failed"]


def test_one_wrong_request_among_many_under_load_is_found() -> None:
    class OneWrong(FakeServer):
        wrong: Question | None = None

        async def ask(self, question: Question) -> Answer:
            if self.wrong is None and len(self.running) == 3:
                self.wrong = question
            return await super().ask(question)

    server = OneWrong(*TIERS)
    server.rope = lambda _, request: 0 if request.question is server.wrong else request.tier
    (first, second) = run(crossing_under_load, server)
    assert first.status == "failed"
    assert first.reason is not None
    assert first.reason.startswith("request 4 of 8 after it: log-probabilities differ")
    assert second.status == "passed"


def test_a_boundary_that_is_off_by_one_fails() -> None:
    class OffByOne(FakeServer):
        def index_for(self, length: int) -> int:
            return super().index_for(min(length + 1, TIERS[-1]))

    first, _ = run(choice, OffByOne(*TIERS))
    assert first.status == "failed"
    assert first.reason is not None
    assert first.reason.startswith("expected a prompt of 200 tokens with 1 generated in the tier up to 200")


def test_a_request_that_never_crosses_fails() -> None:
    class NeverCrosses(FakeServer):
        async def served(self, answer: Answer) -> Served:
            found = await super().served(answer)
            return found if not found.crossings else Served(tier_max_length=200, tokens=found.tokens, crossings=0)

    first, _ = run(crossing, NeverCrosses(*TIERS))
    assert first.status == "failed"
    assert "expected the tier up to 400 after 1 crossings" in str(first.reason)


def test_cached_tokens_across_tiers_fail_though_the_answers_agree() -> None:
    class Telling(FakeServer):
        async def ask(self, question: Question) -> Answer:
            cached = 0 if question.salt is not None or question.prompt[:32] not in self.cache else 16
            answer = await super().ask(question)
            return Answer(**{**vars(answer), "cached_tokens": cached})

    first, _ = run(prefix_isolation, Telling(*TIERS))
    assert first.status == "failed"
    assert "expected no cached token for a prompt whose beginning was asked in another tier, found 16" in str(
        first.reason
    )


def test_a_server_without_a_prefix_cache_is_not_said_to_isolate_it() -> None:
    class Uncached(FakeServer):
        async def ask(self, question: Question) -> Answer:
            return Answer(**{**vars(await super().ask(question)), "cached_tokens": 0})

    first, _ = run(prefix_isolation, Uncached(*TIERS))
    assert first.status == "skipped"
    assert "its prefix cache is off" in str(first.reason)


def test_sensitivity_is_inconclusive_where_the_noise_hides_a_wrong_rope() -> None:
    server = FakeServer(*TIERS, effect=0.05)
    server.noise = 0.1
    _, tolerance = measured_noise(server)
    first, _ = run(sensitivity, server, tolerance)
    assert first.status == "inconclusive"
    assert "equal answers prove little" in str(first.reason)


def test_sensitivity_tells_the_margin_of_a_wrong_rope() -> None:
    first, _ = run(sensitivity, FakeServer(*TIERS))
    assert first.status == "passed"
    assert first.tolerance_used is not None
    assert first.tolerance_used > 100
    assert "so it would be noticed" in str(first.reason)


def test_sensitivity_sees_tokens_that_part_where_the_noise_hides_single_differences() -> None:
    class Elsewhere(FakeServer):
        def step(self, context: list[int], rope: int) -> Step:
            found = super().step(context, 0)
            top = {token + rope * VOCABULARY: value for token, value in found.top.items()}
            return Step(token=found.token + rope * VOCABULARY, top=top)

    wide = Tolerance(largest=30.0, answer_mean=30.0, check_mean=30.0)
    first, _ = run(sensitivity, Elsewhere(*TIERS), wide)
    assert first.status == "passed"
    assert first.tolerance_used is not None
    assert first.tolerance_used < 1
    assert "tokens part" in str(first.reason)


def test_sensitivity_is_skipped_where_a_request_cannot_ask_for_its_tier() -> None:
    class Deaf(FakeServer):
        async def ask(self, question: Question) -> Answer:
            return await super().ask(Question(prompt=question.prompt, max_tokens=question.max_tokens))

    first, _ = run(sensitivity, Deaf(*TIERS))
    assert first.status == "skipped"
    assert "longrope_tier" in str(first.reason)


def test_answers_that_depend_on_the_batch_within_one_tier_fail_the_noise_check() -> None:
    server = FakeServer(*TIERS, rope=lambda server, request: len(server.running), effect=3.0)
    finding, tolerance = measured_noise(server)
    assert finding.status == "failed"
    assert "depend on the batch" in str(finding.reason)
    assert tolerance.largest < 10


@pytest.mark.parametrize(("rope", "status"), [(None, "passed"), (of_the_longest_tier, "failed")])
def test_the_same_questions_elsewhere(rope: Callable[..., int] | None, status: str) -> None:
    ours, theirs = subject_of(FakeServer(*TIERS)), FakeServer(*TIERS)
    theirs.rope = rope or theirs.rope

    async def compared() -> Finding:
        questions = questions_everywhere(ours, TIERS_EXTENTS)
        expected = await ours.alone(questions)
        return await same_answers(
            subject_of(theirs), EXACT, questions=questions, expected=expected, compared="the other"
        )

    assert asyncio.run(compared()).status == status


def test_questions_for_other_servers_cover_every_tier_and_cross_every_boundary() -> None:
    questions = questions_everywhere(subject_of(FakeServer(*TIERS)), TIERS_EXTENTS)
    starting = [FakeServer(*TIERS).index_for(len(question.prompt)) for question in questions]
    assert {0, 1, 2} == set(starting)
    crossing_ones = [
        question for question, tier in zip(questions, starting, strict=True) if question.tokens > TIERS[tier]
    ]
    assert len(crossing_ones) == 2
    assert max(question.tokens for question in questions) == TIERS[-1]


@pytest.mark.parametrize(
    ("limit", "tested", "tops"),
    [(800, 3, [200, 400, 800]), (500, 3, [200, 400, 500]), (400 + ROOM - 1, 2, [200, 400]), (100, 1, [100])],
)
def test_the_longest_prompt_allowed_decides_which_tiers_are_tested(limit: int, tested: int, tops: list[int]) -> None:
    found = extents(TIERS, limit)
    assert [tier.top for tier in found] == tops
    assert len(boundaries(found)) == tested - 1


def test_tiers_around_one_too_narrow_to_be_tested_are_no_boundary() -> None:
    narrow = 200 + ROOM - 1
    found = extents((200, narrow, 600), 600)
    assert [tier.max_length for tier in found] == [200, 600]
    assert boundaries(found) == ()

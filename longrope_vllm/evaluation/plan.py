"""From the tasks that were asked for to the pieces of work that measure them."""

from collections.abc import Callable, Sequence

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.asked import Asked
from longrope_vllm.evaluation.compared import Compared
from longrope_vllm.evaluation.documents import Document
from longrope_vllm.evaluation.longppl import CONTEXT
from longrope_vllm.evaluation.losses import longppl_work, perplexity_work
from longrope_vllm.evaluation.questions import needles, passkeys, question_work, rulers
from longrope_vllm.evaluation.request import Request
from longrope_vllm.evaluation.ruler import Sources
from longrope_vllm.evaluation.ruler.document_questions import read_hotpot, read_squad
from longrope_vllm.evaluation.short import benchmark_work
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.evaluation.work import Work
from longrope_vllm.lengths import format_length


def planned(request: Request, asked: Asked, compared: Compared, evaluator: Subject | None) -> list[Work]:
    """Work of every task, in their order; ``evaluator`` chooses the key tokens where LongPPL is asked for.

    Raises ``EvaluationError`` for what a task cannot measure.
    """
    by_task: dict[str, Callable[[], list[Work]]] = {
        "ppl": lambda: perplexity_work(asked),
        "passkey": lambda: question_work(passkeys(asked), asked),
        "needle": lambda: _needle(asked),
        "ruler": lambda: _ruler(request, asked),
        "longppl": lambda: _longppl(asked, evaluator),
        "short": lambda: benchmark_work(request, compared.short_subjects, asked.encoder),
    }
    return [work for task in request.tasks for work in by_task[task]()]


def notes(request: Request, evaluator: Subject | None) -> list[str]:
    """What a user should know of the plan."""
    if evaluator is None:
        return []
    short = [format_length(length) for length in request.lengths if length <= CONTEXT]
    left_out = f"; {', '.join(short)} left out, where there is no longer context to gain from" if short else ""
    return [f"longppl: key tokens are chosen by {evaluator.label}{left_out}"]


def haystacks(documents: Sequence[Document]) -> list[Document]:
    """Where needles are hidden: the first document of each group, so that more samples change no question."""
    return [document for document in documents if document.index == 0]


def _needle(asked: Asked) -> list[Work]:
    straw = [asked.encoder.tokenizer.decode(document.tokens) for document in haystacks(asked.documents)]
    return question_work(needles(asked, haystacks=straw), asked)


def _ruler(request: Request, asked: Asked) -> list[Work]:
    sources = Sources(
        prose=asked.encoder.tokenizer.decode(asked.documents[0].tokens),
        squad=None if request.squad is None else read_squad(request.squad),
        hotpot=None if request.hotpot is None else read_hotpot(request.hotpot),
    )
    questions = rulers(asked, tasks=request.ruler_tasks, samples=request.ruler_samples, sources=sources)
    return question_work(questions, asked)


def _longppl(asked: Asked, evaluator: Subject | None) -> list[Work]:
    assert evaluator is not None, "chosen whenever the task is asked for"
    if asked.lengths[-1] <= CONTEXT:
        raise EvaluationError(f"Expected a length above {CONTEXT:,} tokens for longppl, found none.")
    return longppl_work(asked, evaluator=evaluator)

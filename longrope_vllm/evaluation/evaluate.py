"""One evaluation from request to report: load or connect, plan, measure what is missing, write the report.

In the output folder: ``evaluation.json`` (settings), ``records.jsonl`` (every sample), ``report.html``,
``report.md``, ``figures/``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.compared import Compared, compared_by
from longrope_vllm.evaluation.documents import Document as TokenDocument
from longrope_vllm.evaluation.documents import cut_documents
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.longppl import CONTEXT
from longrope_vllm.evaluation.methods import NONE
from longrope_vllm.evaluation.plan import Asked, longppl_work, perplexity_work
from longrope_vllm.evaluation.protocols import Protocol
from longrope_vllm.evaluation.provenance import machine, versions
from longrope_vllm.evaluation.questions import needles, passkeys, question_work, rulers
from longrope_vllm.evaluation.records import Journal
from longrope_vllm.evaluation.report import About, Document, markdown, write_report
from longrope_vllm.evaluation.request import NEEDS_DOCUMENTS, Request
from longrope_vllm.evaluation.ruler import Sources
from longrope_vllm.evaluation.ruler.questions import read_hotpot, read_squad
from longrope_vllm.evaluation.settings import (
    Settings,
    document_ids,
    settle,
    vocabulary_hash,
)
from longrope_vllm.evaluation.short import benchmark_work
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.evaluation.work import Work


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What will be measured, with the folder it goes to."""

    work: Sequence[Work]
    journal: Journal
    settings: Settings
    subjects: Sequence[Subject]
    model: str
    trained_window: int | None
    notes: tuple[str, ...]
    """What a user should know beforehand."""

    def report(self, out: Path) -> Path:
        """Write the page of everything that stands in the journal into ``out``; its path.

        Methods come in the order in which they were first asked for.
        """
        order = list(self.settings.methods)
        records = sorted(self.journal.records.values(), key=lambda record: order.index(record.key.method))
        write_atomically(out / "report.md", markdown(records, self.about()))
        return write_report(out, records, self.about())

    def about(self) -> About:
        """The head of the page."""
        planned = {key for piece in self.work for key in piece.keys} | set(self.journal.records)
        settings = self.settings
        return About(
            title=f"{self.model} by length",
            model=self.model,
            trained_window=self.trained_window,
            commands=settings.commands,
            versions=settings.versions,
            documents=tuple(
                Document(
                    name=f"{found.index}: {found.source}", kind=found.group, tokens=found.tokens, sha256=found.sha256
                )
                for found in settings.documents
            ),
            settings=(
                ("protocol", settings.protocol),
                ("seed", str(settings.seed)),
                ("machine", settings.machine),
                ("prompts", "through the chat template" if settings.chat else "as plain text"),
                *((f"method {label}", stands_for) for label, stands_for in settings.methods.items()),
            ),
            created=settings.created,
            planned=len(planned),
        )

    def close(self) -> None:
        """Give back what the subjects hold."""
        for subject in self.subjects:
            subject.close()


def prepare(request: Request, *, command: str) -> Evaluation:
    """Check everything that can be checked beforehand and plan the work. Raises ``LongRopeError``."""
    request.out.mkdir(parents=True, exist_ok=True)
    compared = compared_by(request)
    encoder = Encoder(compared.tokenizer, chat=request.chat)
    for subject in compared.subjects:
        subject.check(request.lengths[-1])
    documents = _documents(request, compared.tokenizer)
    asked = Asked(
        subjects=compared.subjects,
        lengths=request.lengths,
        documents=documents,
        encoder=encoder,
        depths=request.depth_values,
        trials=request.trials,
        seed=request.seed,
        protocol=Protocol.named(request.protocol),
    )
    work, notes = _work(request, asked, compared)
    settings = Settings(
        tokenizer=vocabulary_hash(compared.tokenizer),
        chat=request.chat,
        protocol=request.protocol,
        seed=request.seed,
        depths=request.depth_values,
        documents=document_ids(documents),
        methods=compared.identities,
        commands=(command,),
        versions=versions(),
        machine=machine(),
        created=date.today().isoformat(),
    )
    journal = Journal.open(request.out / "records.jsonl")
    settings = settle(request.out / "evaluation.json", settings)
    return Evaluation(
        work=work,
        journal=journal,
        settings=settings,
        subjects=compared.subjects,
        model=compared.model,
        trained_window=compared.trained_window,
        notes=tuple(notes),
    )


def _documents(request: Request, tokenizer: Any) -> list[TokenDocument]:
    if not NEEDS_DOCUMENTS & set(request.tasks):
        return []
    length = request.document_tokens or request.lengths[-1]
    return cut_documents(request.documents, tokenizer, length=length, count=request.samples)


def _work(request: Request, asked: Asked, compared: Compared) -> tuple[list[Work], list[str]]:
    notes: list[str] = []

    def longppl() -> list[Work]:
        evaluator = _evaluator(request, asked.subjects)
        short = [length for length in request.lengths if length <= CONTEXT]
        if len(short) == len(request.lengths):
            raise EvaluationError(f"Expected a length above {CONTEXT:,} tokens for longppl, found none.")
        notes.append(f"longppl: key tokens chosen by {evaluator.label}")
        if short:
            notes.append(f"longppl leaves out {', '.join(map(str, short))}: there is no longer context to compare with")
        return longppl_work(asked, evaluator=evaluator)

    def needle() -> list[Work]:
        haystacks = [asked.encoder.tokenizer.decode(document.tokens) for document in asked.documents]
        return question_work(needles(asked, haystacks=haystacks), asked)

    def sources() -> Sources:
        return Sources(
            prose=asked.encoder.tokenizer.decode(asked.documents[0].tokens),
            squad=None if request.squad is None else read_squad(request.squad),
            hotpot=None if request.hotpot is None else read_hotpot(request.hotpot),
        )

    def ruler() -> list[Work]:
        return question_work(
            rulers(asked, tasks=request.ruler_tasks, samples=request.ruler_samples, sources=sources()), asked
        )

    by_task: dict[str, Callable[[], list[Work]]] = {
        "ppl": lambda: perplexity_work(asked),
        "passkey": lambda: question_work(passkeys(asked), asked),
        "needle": needle,
        "longppl": longppl,
        "ruler": ruler,
        "short": lambda: benchmark_work(request, compared.short_subjects, asked.encoder),
    }
    return [work for task in request.tasks for work in by_task[task]()], notes


def _evaluator(request: Request, subjects: Sequence[Subject]) -> Subject:
    labels = [subject.label for subject in subjects]
    label = request.evaluator or next((label for label in labels if label != NONE), labels[0])
    if label not in labels:
        raise EvaluationError(f"Expected --evaluator out of {', '.join(labels)}, found {label!r}.")
    return subjects[labels.index(label)]

"""One evaluation from request to report: load or connect, plan, measure what is missing, write the report.

In the output folder: ``evaluation.json`` (settings), ``records.jsonl`` (every sample), ``report.html``,
``report.md``, ``figures/``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.asked import Asked
from longrope_vllm.evaluation.compared import compared_by
from longrope_vllm.evaluation.documents import Document as TokenDocument
from longrope_vllm.evaluation.documents import cut_documents
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.methods import NONE
from longrope_vllm.evaluation.plan import haystacks, notes, planned
from longrope_vllm.evaluation.protocols import Protocol
from longrope_vllm.evaluation.provenance import machine, versions
from longrope_vllm.evaluation.records import Journal
from longrope_vllm.evaluation.report import NEEDED, About, Document, markdown, write_report
from longrope_vllm.evaluation.request import NEEDS_DOCUMENTS, Request
from longrope_vllm.evaluation.settings import (
    Settings,
    document_ids,
    file_hash,
    joined,
    read_settings,
    vocabulary_hash,
    write_settings,
)
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.evaluation.work import Work
from longrope_vllm.extras import require


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

        The unextended model comes first, then the others in the order in which they were first asked for.
        """
        labels = sorted(self.settings.methods, key=lambda label: label != NONE)  # the unextended model first
        order = {label: place for place, label in enumerate(labels)}
        records = sorted(self.journal.records.values(), key=lambda record: order.get(record.key.method, len(order)))
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
                *((("key tokens of LongPPL chosen by", settings.evaluator),) if settings.evaluator else ()),
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
    """Check everything that can be checked beforehand and plan the work, in the folder ``request.out``, which exists.

    Raises ``LongRopeError``.
    """
    for module in NEEDED:
        require(module, "eval")
    journal = Journal.open(request.out / "records.jsonl")
    before = read_settings(request.out) if journal.records else None  # nothing measured binds nobody
    compared = compared_by(request)
    for subject in compared.subjects:
        subject.check(request.lengths[-1])
    encoder = Encoder(compared.tokenizer, chat=request.chat)
    documents = _documents(request, compared.tokenizer, before)
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
    evaluator = _evaluator(request, compared.subjects, before) if "longppl" in request.tasks else None
    settings = Settings(
        tokenizer=vocabulary_hash(compared.tokenizer),
        chat=request.chat,
        protocol=request.protocol,
        seed=request.seed,
        depths=request.depth_values,
        documents=document_ids(documents),
        methods=compared.identities,
        evaluator=evaluator.label if evaluator else "",
        sources=_sources(request, documents),
        commands=(command,),
        versions=versions(),
        machine=machine(),
        created=date.today().isoformat(),
    )
    if before is not None:
        settings = joined(before, settings, request.out)
    work = planned(request, asked, compared, evaluator)
    write_settings(request.out, settings)
    return Evaluation(
        work=work,
        journal=journal,
        settings=settings,
        subjects=compared.subjects,
        model=compared.model,
        trained_window=compared.trained_window,
        notes=tuple(notes(request, evaluator)),
    )


def _documents(request: Request, tokenizer: Any, before: Settings | None) -> list[TokenDocument]:
    if not NEEDS_DOCUMENTS & set(request.tasks):
        return []
    length = request.document_tokens or request.lengths[-1]
    if before is not None and before.documents and request.document_tokens is None:
        length = before.documents[0].tokens  # a continued folder keeps its documents
        if request.lengths[-1] > length:
            raise EvaluationError(
                f"Expected lengths up to the {length:,} tokens of the documents that {request.out} was measured on, "
                f"found {request.lengths[-1]:,}: give another --out, and --document-tokens for lengths still to come."
            )
    return cut_documents(request.documents, tokenizer, length=length, count=request.samples)


def _sources(request: Request, documents: Sequence[TokenDocument]) -> dict[str, str]:
    found = {option: file_hash(path) for option, path in request.files.items()}
    if "needle" in request.tasks:
        found["needle"] = ", ".join(f"{document.group} {document.sha256}" for document in haystacks(documents))
    if "ruler" in request.tasks:
        found["ruler"] = f"{documents[0].group} {documents[0].sha256}"
    return found


def _evaluator(request: Request, subjects: Sequence[Subject], before: Settings | None) -> Subject:
    labels = [subject.label for subject in subjects]
    default = next((label for label in labels if label != NONE), labels[0])
    label = request.evaluator or (before.evaluator if before is not None else "") or default
    if label not in labels:
        raise EvaluationError(
            f"Expected the method that chooses the key tokens of longppl among {', '.join(labels)}, found {label!r}: "
            "compare it as well, or name one of them with --evaluator."
        )
    return subjects[labels.index(label)]

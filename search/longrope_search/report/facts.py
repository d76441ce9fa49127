"""How a search was made, as rows of name and value: what was asked, what follows from it, and with what it ran."""

from collections.abc import Callable
from dataclasses import asdict

from longrope_search.plan import Plan
from longrope_search.report.wording import as_factor
from longrope_search.scoring.storage import without_password
from longrope_search.stage import Settings, Stage
from longrope_vllm.evaluation.provenance import machine, versions
from longrope_vllm.evaluation.report.rendering import Document
from longrope_vllm.lengths import format_length

_HASH = 16
"""Digits of a hash that tell one document from another."""


def facts(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Rows of name and value."""
    request = plan.request
    known = plan.stages[0].space.footing.max_length
    footing = "the checkpoint's own rope" if plan.stages[0].space.footing == plan.footing.own else "fine-tuned factors"
    return (
        ("model", plan.revision),
        ("lengths", ", ".join(format_length(length) for length in request.lengths)),
        ("factors multiply", f"{footing}, up to {format_length(known)} tokens"),
        ("method", _by_length(plan, lambda stage: f"{request.method} ({_settings(stage)})")),
        ("objective", request.objective),
        ("space", _by_length(plan, _space)),
        ("attention factor", _by_length(plan, lambda stage: _attention_factor(plan, stage))),
        ("start tokens", _by_length(plan, _start_tokens)),
        ("documents", f"{request.samples} for the search, {request.held_out} held out; {', '.join(request.documents)}"),
        ("finalists", f"{request.finalists}"),
        ("pruning", "yes" if request.pruning else "no"),
        ("seed", f"{request.seed}"),
        ("numbers", f"{request.dtype} on {request.device}"),
        ("study", f"{request.title} in {without_password(request.storage)}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("machine", f"{machine()} (that wrote this page)"),
    )


def documents(plan: Plan) -> tuple[Document, ...]:
    """Every sequence that losses are of, by length."""
    return tuple(
        Document(
            name=passage.name,
            kind=f"{format_length(stage.space.length)}, {use}",
            tokens=len(passage.tokens),
            sha256=passage.sha256[:_HASH],
        )
        for stage in plan.stages
        for use, passages in (("search", stage.passages), ("held out", stage.held_out))
        for passage in passages
    )


def _by_length(plan: Plan, text: Callable[[Stage], str]) -> str:
    """What ``text`` says of all stages, once where they agree."""
    said = {format_length(stage.space.length): text(stage) for stage in plan.stages}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{length}: {what}" for length, what in said.items())


def _settings(stage: Stage) -> str:
    return "; ".join(_of_method(found) for found in stage.methods)


def _of_method(settings: Settings) -> str:
    stated = asdict(settings).items()
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in stated if value is not None)


def _space(stage: Stage) -> str:
    space = stage.space
    pivots = f", critical pair {space.pivots[0]} to {space.pivots[-1]}" if space.pivots != (0,) else ""
    bounds = f"{as_factor(space.smallest)} to {as_factor(space.largest)}"
    return f"{space.name}, factors {bounds} in steps of {space.step:g}{pivots}"


def _attention_factor(plan: Plan, stage: Stage) -> str:
    value, asked = as_factor(stage.space.attention_factor), plan.request.attention_factor
    if asked == "search":
        return f"learned, from {value} on"
    return value if plan.request.stated_attention_factor is not None else f"{value} ({asked})"


def _start_tokens(stage: Stage) -> str:
    if not stage.start_tokens:
        return f"{stage.space.start_tokens}"
    return f"the best of {', '.join(map(str, stage.start_tokens))}, at the end"

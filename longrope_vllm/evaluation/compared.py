"""The subjects of one evaluation: a checkpoint under each set of factors, or a server as it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.in_process import InProcess
from longrope_vllm.evaluation.loading import LoadedModel, device_named, dtype_named, tokenizer_at
from longrope_vllm.evaluation.methods import (
    CHECKPOINT,
    NONE,
    Method,
    check_labels,
    file_method,
    named_method,
    tiers_method,
)
from longrope_vllm.evaluation.over_http import Server
from longrope_vllm.evaluation.request import Request
from longrope_vllm.evaluation.settings import checkpoint_identity
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.geometry import Geometry, read_config
from longrope_vllm.rope_block import read_rope_block


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a request compares."""

    subjects: Sequence[Subject]
    short_subjects: Sequence[Subject]
    """For benchmarks of short questions: the unextended model first, then each set of factors as it is served here, a
    tier for each request, and as engines with one rope serve it."""
    identities: Mapping[str, str]
    """What each label stands for."""
    tokenizer: Any
    trained_window: int | None
    """Where it is known."""
    model: str
    """Its name."""


def compared_by(request: Request) -> Compared:
    """Load what is needed to plan, which leaves out weights. Raises ``LongRopeError``."""
    return _server(request) if request.is_server else _checkpoint(request)


def _checkpoint(request: Request) -> Compared:
    config = read_config(request.target)
    folder = Path(request.target)
    methods = _methods(request, config)
    tokenizer = tokenizer_at(request.tokenizer or str(folder))
    model = LoadedModel(folder, dtype=dtype_named(request.dtype), device=device_named(request.device))
    identity = checkpoint_identity(folder)
    short_methods = _labelled(_short_methods(methods, config, request), request.label)
    methods = _labelled(methods, request.label)
    return Compared(
        subjects=[InProcess(model, tokenizer, method) for method in methods],
        short_subjects=[InProcess(model, tokenizer, method) for method in short_methods],
        identities={
            method.label: f"{identity}, {request.dtype}, {method.identity}" for method in (*short_methods, *methods)
        },
        tokenizer=tokenizer,
        trained_window=Geometry.from_config(config).trained_window,
        model=folder.resolve().name,
    )


def _methods(request: Request, config: Any) -> list[Method]:
    names = request.methods
    if not (names or request.tiers or request.factors):
        names = (NONE if read_rope_block(config) is None else CHECKPOINT,)
    found = [
        *(named_method(name, config, lengths=request.lengths) for name in names),
        *(tiers_method(spec, config) for spec in request.tiers),
        *(file_method(spec, config) for spec in request.factors),
    ]
    if request.long_for_all:
        found += [method.long_for_all() for method in found if len(method.factors.tiers) > 1]
    check_labels(found)
    return found


def _labelled(methods: Sequence[Method], label: str | None) -> list[Method]:
    """``label`` tells the methods of this checkpoint from those of another one in the same folder."""
    if label is None:
        return list(methods)
    if len(methods) == 1:
        return [replace(methods[0], label=label)]
    return [replace(method, label=f"{label}, {method.label}") for method in methods]


def _short_methods(methods: Sequence[Method], config: Any, request: Request) -> list[Method]:
    if "short" not in request.tasks:
        return []
    found = {method.label: method for method in methods}
    if read_rope_block(config) is None:
        found = {NONE: named_method(NONE, config, lengths=request.lengths)} | found
    for method in methods:
        if len(method.factors.tiers) > 1:
            found.setdefault((long := method.long_for_all()).label, long)
    return list(found.values())


def _server(request: Request) -> Compared:
    server = Server(
        request.target,
        label=request.label,
        model=request.model,
        api_key=request.api_key,
        concurrency=request.concurrency,
    )
    named = request.tokenizer or server.checkpoint
    if named is None or (request.tokenizer is None and not Path(named).is_dir()):
        raise EvaluationError(
            f"Expected a tokenizer for the model {server.model!r} of {server.url}, found none on this machine: name "
            "its folder with --tokenizer."
        )
    known = (Path(named) / "config.json").is_file()
    server.tokenizer = named
    return Compared(
        subjects=[server],
        short_subjects=[server],
        identities={server.label: server.identity},
        tokenizer=tokenizer_at(named),
        trained_window=Geometry.from_checkpoint(named).trained_window if known else None,
        model=server.model,
    )

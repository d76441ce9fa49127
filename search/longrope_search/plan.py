"""A search that was checked and can begin: documents, spaces and settings of each length, and what identifies it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longrope_search.candidate import Candidate
from longrope_search.footing import Footing, footing
from longrope_search.model.memory_plan import MemoryPlan
from longrope_search.model.passages import passages_of
from longrope_search.model.scorer import Scorer
from longrope_search.request import Request
from longrope_search.result import Found, origin
from longrope_search.space import Space
from longrope_search.stage import AS_TUNED, Stage, methods_of, start_token_choices
from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.documents import Document, cut_documents
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.loading import device_named, dtype_named, tokenizer_at
from longrope_vllm.evaluation.settings import checkpoint_identity
from longrope_vllm.factors import Factors, Tier
from longrope_vllm.geometry import positive_int, read_config, text_config
from longrope_vllm.rope import longrope_attention_factor, yarn_attention_factor


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search that was checked and can begin."""

    request: Request
    footing: Footing
    stages: Sequence[Stage]
    revision: str

    @property
    def memory(self) -> MemoryPlan:
        """Of one pass, on the device that was asked for. Raises ``EvaluationError`` when there is no such device."""
        request = self.request
        return MemoryPlan.of(
            Path(request.model),
            length=request.lengths[-1],
            dtype=dtype_named(request.dtype),
            device=device_named(request.device),
            gradient="gradient" in request.methods,
        )

    def scorer(self) -> Scorer:
        """What measures, on that device, once it is sure that there is memory for it."""
        request = self.request
        return Scorer(
            Path(request.model),
            self.footing.geometry,
            dtype=dtype_named(request.dtype),
            device=device_named(request.device),
            check=self.memory.check,
        )

    @property
    def model(self) -> str:
        """Name of the checkpoint."""
        return Path(self.request.model).resolve().name

    def factors(self, found: Sequence[Found], *, command: str) -> Factors:
        """The file of what was found."""
        tuned = self.footing.tuned
        before = tuned.origin if tuned is not None and tuned.origin.measurements else None
        return self.footing.with_tiers(
            [one.tier for one in found],
            origin(self.request, found, model=self.model, revision=self.revision, command=command, before=before),
        )


def plan(request: Request) -> Plan:
    """Check all that is about the request, the checkpoint and the documents. Raises ``LongRopeError``."""
    standing = footing(request)
    encoder = Encoder(tokenizer_at(request.model))
    documents, held_out = _documents(request, encoder)
    _check_tokens([*documents, *held_out], request.model)
    make = partial(passages_of, request.objective, encoder=encoder, seed=request.seed)
    stages = []
    for length in request.lengths:
        first, choices = start_token_choices(request)
        stages.append(
            Stage(
                space=_space(request, standing, length, start_tokens=first),
                geometry=standing.geometry,
                passages=make(documents, length=length),
                held_out=make(held_out, length=length),
                methods=methods_of(request, length),
                seed=request.seed,
                start_tokens=choices,
                finalists=request.finalists,
                served=_served(standing, length) if request.kind == "short" else None,
            )
        )
    return Plan(
        request=request,
        footing=standing,
        stages=stages,
        revision=checkpoint_identity(Path(request.model)),
    )


def _space(request: Request, standing: Footing, length: int, *, start_tokens: int) -> Space:
    known = standing.own if request.kind == "short" else standing.tier(request.lengths[0])
    return Space.of(
        request.space,
        standing.geometry,
        known,
        length=length,
        step=request.step,
        attention_factor=request.stated_attention_factor or _attention_factor(request, standing, known, length),
        start_tokens=start_tokens,
        largest=request.largest,
    )


def _served(standing: Footing, length: int) -> Candidate:
    assert standing.tuned is not None
    tier = standing.tuned.tier_for(length)
    return Candidate(
        factors=tier.factors,
        attention_factor=tier.attention_factor,
        start_tokens=tier.start_tokens,
        origin=AS_TUNED,
    )


def _attention_factor(request: Request, standing: Footing, known: Tier, length: int) -> float:
    """That of the footing, times what the formula grows by from the footing's length to ``length``."""
    window = standing.geometry.trained_window
    formula = _FORMULAS["yarn" if request.attention_factor == "yarn" else "longrope"]
    grown = formula(max(length, known.max_length) / window, window) / formula(known.max_length / window, window)
    return known.attention_factor * grown


_FORMULAS: Mapping[str, Callable[[float, int], float]] = {
    "longrope": longrope_attention_factor,
    "yarn": lambda scale, window: yarn_attention_factor(scale),
}
"""(target over trained window, trained window) to the attention factor."""


def _documents(request: Request, encoder: Encoder) -> tuple[list[Document], list[Document]]:
    """Those of the search and the held-out ones, from every source in turn."""
    wanted = request.samples + request.held_out
    each = -(-wanted // len(request.documents))
    found = cut_documents(request.documents, encoder.tokenizer, length=request.lengths[-1], count=each)
    turns = sorted(found, key=lambda document: document.index)  # stable: within a turn in the order of the sources
    return turns[: request.samples], turns[request.samples : wanted]


def _check_tokens(documents: Sequence[Document], model: str) -> None:
    """Raise ``SearchError`` when the tokenizer has tokens that the model does not know."""
    known = positive_int(text_config(read_config(model)), "vocab_size")
    highest = max(int(document.tokens.max()) for document in documents)
    if highest >= known:
        raise SearchError(
            f"Expected a tokenizer with tokens below the model's {known:,}, found token {highest:,} in {model}: put "
            "the tokenizer there that belongs to the model."
        )


def identity(plan: Plan, stage: Stage) -> dict[str, Any]:
    """All that decides the result of a stage; a study of another is refused."""
    request, space = plan.request, stage.space
    return {
        "model": plan.revision.rpartition(" ")[2],  # without its name: workers may have it in other folders
        "length": space.length,
        "footing": [space.footing.max_length, *space.footing.factors],
        "space": [space.name, space.smallest, space.largest, space.step, space.attention_factor, list(space.pivots)],
        "methods": [[name, asdict(found)] for name, found in zip(request.methods, stage.methods, strict=True)],
        "objective": request.objective,
        "seed": request.seed,
        "pruning": request.pruning,
        "finalists": request.finalists,
        "dtype": request.dtype,
        "start_tokens": [space.start_tokens, *stage.start_tokens],
        "documents": [passage.sha256 for passage in stage.passages],
        "held-out documents": [passage.sha256 for passage in stage.held_out],
    }

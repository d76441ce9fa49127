"""What a search found: the scores of the best and of the closed forms, and the origin that goes into the file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longrope_search.candidate import Candidate
from longrope_search.model.passages import Passage
from longrope_search.request import Request
from longrope_search.scoring.bench import Moment
from longrope_search.stage import AS_TUNED
from longrope_vllm.evaluation.provenance import versions
from longrope_vllm.factors import Origin, Tier


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate on the held-out passages."""

    label: str
    candidate: Candidate
    losses: tuple[float, ...]
    """By passage, in nats."""
    last: tuple[float, ...]
    """Of the last 1,024 tokens of each, for perplexity."""
    curves: tuple[tuple[float, ...], ...]
    """By passage, mean loss of each run of 512 tokens, for perplexity."""

    @property
    def loss(self) -> float:
        """Mean over the passages."""
        return float(np.mean(self.losses))

    @property
    def perplexity(self) -> float:
        """``exp`` of the loss."""
        return math.exp(self.loss)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome for one length."""

    length: int
    finalists: Sequence[Row]
    """The best of the search, scored again; none while it runs."""
    baselines: Sequence[Row]
    """The closed forms."""
    search_losses: Mapping[Candidate, float]
    """Of every candidate that was scored on all passages of the search."""
    history: Sequence[Moment]
    evaluations: int
    token_forwards: int
    passages: Sequence[Passage]
    held_out: Sequence[Passage]

    @property
    def best(self) -> Row:
        """The finalist of the least loss on the held-out passages."""
        return min(self.finalists, key=lambda row: row.loss)

    @property
    def best_baseline(self) -> Row:
        """The closed form of the least loss."""
        return min(self.baselines, key=lambda row: row.loss)

    @property
    def tier(self) -> Tier:
        """What goes into the file: the best finalist, unless the tier that is there already is at least as good."""
        served = [row for row in self.baselines if row.label == AS_TUNED and row.loss <= self.best.loss]
        return (served or [self.best])[0].candidate.tier(self.length)

    def measurements(self) -> dict[str, Any]:
        """For the file: what speaks for the tier, without anything that differs from run to run."""
        return {
            "held_out_loss": {row.label: round(row.loss, 6) for row in (self.best, *self.baselines)},
            "search_loss": round(self.search_losses[self.best.candidate], 6),
            "finalists": len(self.finalists),
            "evaluations": self.evaluations,
            "token_forwards": self.token_forwards,
            "documents": [_named(passage) for passage in self.passages],
            "held_out_documents": [_named(passage) for passage in self.held_out],
        }


def origin(
    request: Request, found: Sequence[Found], *, model: str, revision: str, command: str, before: Origin | None
) -> Origin:
    """Where the factors come from, so that a reader can judge and repeat them; ``before``: those they multiply."""
    worse = [
        f"{one.best_baseline.label} at {one.length}"
        for one in found
        if one.best.loss >= one.best_baseline.loss and one.best_baseline.label != AS_TUNED  # that was kept
    ]
    return Origin(
        method="search",
        model=model,
        revision=revision,
        command=command,
        note=f"on held-out documents no better than {', '.join(worse)}" if worse else None,
        measurements={
            "method": request.method,
            "objective": request.objective,
            "space": request.space,
            "seed": request.seed,
            "versions": versions(),
            "lengths": {str(one.length): one.measurements() for one in found},
            **({"before": {"command": before.command, **before.measurements}} if before else {}),
        },
    )


def _named(passage: Passage) -> dict[str, Any]:
    return {"source": passage.name, "tokens": len(passage.tokens), "sha256": passage.sha256}

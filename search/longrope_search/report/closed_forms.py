"""The closed forms beside what was found: their losses on the documents of the search, and their factors by pair."""

from dataclasses import replace

import numpy as np

from longrope_search.candidate import Candidate
from longrope_search.methods.seeds import seeds
from longrope_search.result import Found
from longrope_search.stage import AS_TUNED, COMPARED, Stage
from longrope_vllm.evaluation.report.figure_style import Style, styles
from longrope_vllm.factor_plot import COMPARED as DRAWN
from longrope_vllm.factor_plot import Curve, FactorPlot, factor_plot

SEARCHED = "searched"
"""Label of what was found, as that of its rows."""
STYLES: dict[str, Style] = styles(["none", SEARCHED, *COMPARED[1:], AS_TUNED])
"""How each looks in every figure; ``none`` in the grey that it has on the pages of an evaluation."""


def on_search_documents(found: Found, stage: Stage) -> dict[str, float]:
    """Losses of the closed forms that the search began with, where they were scored on all of its passages.

    They are there on the grid and with the attention factor and start tokens of the search; their own attention factors
    are measured on held-out documents.
    """
    first = {point.origin: stage.space.candidate(point) for point in seeds(stage.space, stage.geometry)}
    return {
        name: found.search_losses[first[name]]
        for name in COMPARED
        if name in first and first[name] in found.search_losses
    }


def factors_by_pair(best: Candidate, stage: Stage, *, subtitle: str) -> FactorPlot:
    """``best`` against PI, NTK-aware and YaRN over the same footing, where they differ from it.

    The critical pair is that of the length the model knows, as in the search.
    """
    length, footing = stage.space.length, stage.space.footing
    known = replace(stage.geometry, trained_window=footing.max_length)
    forms = stage.baselines()
    drawn = [name for name in (AS_TUNED, *DRAWN) if name in forms]
    curves = [_curve(name, forms[name]) for name in drawn if not np.allclose(forms[name].factors, footing.factors)]
    plain = factor_plot("", known, (), target=length)
    return replace(plain, title="Factors by rotary pair", subtitle=subtitle, curves=(*curves, _curve(SEARCHED, best)))


def _curve(label: str, candidate: Candidate) -> Curve:
    return Curve(label=label, factors=candidate.factors, is_tier=label == SEARCHED, color=STYLES[label].color)

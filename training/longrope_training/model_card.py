"""The model card of a tuned checkpoint: what it was made from, with what text, how its loss went, how it scores."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longrope_training.data.streams import Streams
from longrope_training.fit import Fit
from longrope_training.recipe import Recipe
from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import TrainingError
from longrope_vllm.lengths import format_length

_EVALUATION = "## Evaluation\n"
_NOT_YET = "Not evaluated yet. `longrope train card FOLDER --eval RESULTS` puts the table of `longrope eval` here.\n"


def model_card(recipe: Recipe, fit: Fit, *, streams: Streams, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; ``metrics`` are the lines of ``metrics.jsonl``."""
    name = recipe.model.resolve().name
    tiers = [format_length(tier.max_length) for tier in fit.stages[-1].factors.tiers]
    last = metrics[-1]
    stages = "\n".join(
        f"| {number} | {format_length(stage.length)} | {stage.steps} | {_losses(metrics, number)} |"
        for number, stage in enumerate(recipe.stages, 1)
    )
    return f"""---
base_model: {name}
tags: [longrope, long-context]
---
# {name}, up to {tiers[-1]} tokens

Fine-tuned with LongRoPE factors ([2402.13753](https://arxiv.org/abs/2402.13753),
[2502.20082](https://arxiv.org/abs/2502.20082)) by longrope-vllm. Tiers in `config.json`: {", ".join(tiers)}.
`longrope serve` gives every request the tier of its length; other engines take the shortest and the longest of them.

## Training

| stage | tokens a row | steps | loss, first to last tenth |
|---|---|---|---|
{stages}

{last["tokens"]:,} tokens; {recipe.batch} rows a step, {recipe.short_share:.0%} of them short documents under the own
rope of the checkpoint; learning rate {recipe.learning_rate:g}, {recipe.learning_rate_schedule}; seed {recipe.seed}.

![loss by step](loss.png)

## Data

{_data(streams)}

{_EVALUATION}
{_NOT_YET}"""


def put_evaluation(model: Path, report: Path) -> None:
    """Replace the section on evaluation of the card in ``model`` by ``report.md`` of ``longrope eval``.

    Raises ``TrainingError`` where there is no card, or no report.
    """
    card, found = model / "README.md", report / "report.md"
    if not card.is_file() or _EVALUATION not in card.read_text(encoding="utf-8"):
        raise TrainingError(
            f"Expected a model card with a section on evaluation, found none at {card}: name a checkpoint that "
            "longrope train made."
        )
    if not found.is_file():
        raise TrainingError(
            f"Expected the results of longrope eval, found no report.md in {report}: name the folder that it wrote."
        )
    before = card.read_text(encoding="utf-8").partition(_EVALUATION)[0]
    table = re.sub(r"^#", "##", found.read_text(encoding="utf-8"), flags=re.MULTILINE)  # below our own heading
    write_atomically(card, f"{before}{_EVALUATION}\n{table}")


def _data(streams: Streams) -> str:
    rows = [
        f"| {one.source} | {one.kind} | {one.documents:,} | {one.tokens:,} | {one.passes} | {one.longest:,} |"
        for one in streams.portions
    ]
    head = ("| source | rows | documents | tokens | passes | longest document |", "|---|---|---|---|---|---|")
    return "\n".join([*head, *rows])


def _losses(metrics: Sequence[Mapping[str, Any]], stage: int) -> str:
    """Mean losses of the first and last tenth of a stage, for each kind of row."""
    mine = [entry for entry in metrics if entry["stage"] == stage]
    found = []
    for kind in ("long", "short"):
        losses = [entry[f"loss_{kind}"] for entry in mine if f"loss_{kind}" in entry]
        tenth = max(1, len(losses) // 10)
        if losses:
            found.append(f"{kind} {sum(losses[:tenth]) / tenth:.3f} to {sum(losses[-tenth:]) / tenth:.3f}")
    return ", ".join(found)

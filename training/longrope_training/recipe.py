"""What a user asks of one training run, checked for itself before anything is read.

A recipe names a checkpoint, the factors of each stage, text, and how to train. Whether those fit each other is checked
in ``fit``. Types and docstrings of the fields are what recipe files and the command line are read and explained by
(``recipe_file``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from longrope_vllm.errors import TrainingError

Tokens = Annotated[int, "tokens"]
"""A number of tokens, which people may write as ``128k``."""

Rows = Literal["long", "short", "both"]
Tuning = Literal["auto", "full", "lora"]
Attention = Literal["auto", "flash", "sdpa"]
Parallel = Literal["single", "sp", "cp"]
Sharing = Literal["auto", "single", "sp", "cp"]
"""How rows are shared out: as ``Parallel``, or as fits the machine."""
LearningRateSchedule = Literal["constant", "linear", "cosine"]
Positions = Literal["whole", "pose"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps at one length; weights and the optimizer's state carry over from stage to stage."""

    length: Tokens
    """Of a row."""
    steps: int
    """Steps of the optimizer."""
    factors: Path | None = None
    """``factors.json`` of this stage; that of the recipe when None."""
    learning_rate: float | None = None
    """That of the recipe when None."""

    def __post_init__(self) -> None:
        at_least("length of a stage", self.length, 16)
        at_least("steps of a stage", self.steps, 1)
        if self.learning_rate is not None:
            positive("learning_rate of a stage", self.learning_rate)
        if self.factors is not None and not self.factors.is_file():
            raise TrainingError(f"Expected factors for a stage, found no file at {self.factors}.")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Text to train on."""

    source: str
    """As ``longrope eval --documents`` names it: a file, a folder, ``hub:NAME``, ``stdlib`` ..."""
    weight: float = 1.0
    """Share of the tokens, relative to the other sources."""
    rows: Rows = "both"
    """Kinds of rows that it is for."""
    upsample: float = 1.0
    """How many times likelier a long document comes into long rows than a short one."""
    upsample_from: Tokens = 0
    """Length from which on a document is a long one."""

    def __post_init__(self) -> None:
        positive(f"weight of {self.source}", self.weight)
        one_of(f"rows of {self.source}", self.rows, get_args(Rows))
        if not self.source:
            raise TrainingError("Expected a source of text in data, found an empty one.")
        if self.upsample < 1:
            raise TrainingError(f"Expected upsample of {self.source} of 1 or more, found {self.upsample}.")
        if self.upsample > 1 and self.upsample_from < 1:
            raise TrainingError(
                f"Expected upsample_from, the length of a long document, with upsample of {self.source}, found none."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run."""

    model: Path
    """A checkpoint folder."""
    out: Path
    """Folder for data, checkpoints, metrics and the tuned checkpoint."""
    stages: tuple[Stage, ...]
    """One after the other."""
    data: tuple[DataSource, ...]
    """Text to train on."""
    factors: Path | None = None
    """``factors.json`` of all stages that name none."""

    batch: int = 8
    """Rows of a step, over all processes."""
    short_share: float = 0.0
    """Share of rows that hold short documents under the checkpoint's own rope (mixed context window training)."""
    positions: Positions = "whole"
    """``pose`` trains long positions on rows of the trained window, in two chunks with a jump (arXiv 2309.10400)."""

    learning_rate: float = 2e-5
    """Of the optimizer, at its highest."""
    learning_rate_schedule: LearningRateSchedule = "linear"
    """Over the steps of each stage."""
    warmup: int = 0
    """Steps of each stage over which the learning rate rises to its value."""
    weight_decay: float = 0.0
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's."""
    max_grad_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it."""

    tuning: Tuning = "auto"
    """All weights, or low-rank adapters with norms and embeddings; ``auto`` takes adapters from 7B weights on."""
    lora_rank: int = 8
    """Of the adapters."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the arithmetic; weights that are trained in full are kept in float32."""

    parallel: Sharing = "auto"
    """``sp`` shares each row out by Ulysses, ``cp`` by ring attention, over all processes of ``ways``; ``auto`` is
    ``sp`` on several GPUs that the heads can be shared out to, and ``single``, rows for each process, elsewhere."""
    ways: int | None = None
    """Processes that share one row; all of them when None."""
    attention: Attention = "auto"
    """``auto`` takes flash-attn where it is installed and can be used, SDPA elsewhere."""
    checkpointing: bool = True
    """Compute activations again on the way back instead of keeping them."""
    offload: bool = False
    """Keep what checkpointing keeps in the memory of the host."""
    mlp_tokens: Tokens | None = None
    """Tokens whose MLP is computed at once; all of a row when None."""

    seed: int = 0
    """Of the order of the data and of new weights."""
    device: str = "auto"
    """``auto`` is CUDA where there is some."""
    save_every: int = 50
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints that are kept."""
    first_loss: float | None = 1.0
    """Nats by which the first long row may be worse than the checkpoint within its window; None does not check."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise TrainingError("Expected at least one stage, found none: give --stage LENGTH:STEPS.")
        if not self.data:
            raise TrainingError("Expected at least one source of text, found none: give --data SOURCE.")
        for name in ("batch", "save_every", "lora_rank"):
            at_least(name, getattr(self, name), 1)
        at_least("keep", self.keep, 2)  # the newest may be torn by a fault of the disk
        at_least("warmup", self.warmup, 0)
        for name in ("learning_rate", "max_grad_norm"):
            positive(name, getattr(self, name))
        if not 0 <= self.short_share < 1:
            raise TrainingError(f"Expected short_share from 0 to below 1, found {self.short_share}.")
        if not 0 <= self.weight_decay < 1 or not all(0 <= beta < 1 for beta in self.betas) or len(self.betas) != 2:
            raise TrainingError(
                f"Expected weight_decay and two betas from 0 to below 1, found {self.weight_decay} and {self.betas}."
            )
        for name, known in _CHOICES.items():
            one_of(name, getattr(self, name), known)
        for name in ("ways", "mlp_tokens"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if not 0 <= self.seed < 1 << 32:
            raise TrainingError(f"Expected a seed from 0 to {(1 << 32) - 1}, found {self.seed}.")
        if self.first_loss is not None:
            positive("first_loss", self.first_loss)
        if self.factors is not None and not self.factors.is_file():
            raise TrainingError(f"Expected factors, found no file at {self.factors}.")
        if self.factors is None and any(stage.factors is None for stage in self.stages):
            raise TrainingError("Expected factors for every stage, found a stage without: give --factors FILE.")
        lengths = [stage.length for stage in self.stages]
        if lengths != sorted(lengths):
            raise TrainingError(f"Expected stages of growing length, found {', '.join(map(str, lengths))}.")

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def alone(self) -> bool:
        """True where each process has rows of its own; ``sharing.settled`` says what ``auto`` stands for."""
        return self.parallel in ("auto", "single")


_CHOICES = {
    "positions": get_args(Positions),
    "learning_rate_schedule": get_args(LearningRateSchedule),
    "tuning": get_args(Tuning),
    "dtype": ("bfloat16", "float32"),
    "parallel": get_args(Sharing),
    "attention": get_args(Attention),
}


def one_of(name: str, found: str, known: tuple[str, ...]) -> None:
    """Raise ``TrainingError`` unless ``found`` is one of ``known``."""
    if found not in known:
        raise TrainingError(f"Expected {name} out of {', '.join(known)}, found {found!r}.")


def at_least(name: str, found: int, least: int) -> None:
    """Raise ``TrainingError`` unless ``found`` is a whole number of ``least`` or more."""
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise TrainingError(f"Expected {name} of {least} or more, found {found!r}.")


def positive(name: str, found: float) -> None:
    """Raise ``TrainingError`` unless ``found`` is a finite number above 0."""
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < float("inf"):
        raise TrainingError(f"Expected {name} above 0, found {found!r}.")

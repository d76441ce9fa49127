"""What a user asks of one evaluation, checked before anything is loaded or sent; every default stands here."""

from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.protocols import Protocol
from longrope_vllm.evaluation.ruler import TASKS as RULER_TASKS

TASKS = {
    "ppl": "perplexity by length, and loss by position",
    "passkey": "a number in repeated sentences, by length and depth",
    "needle": "a fact in real text, by length and depth",
    "ruler": "RULER's 13 tasks by length",
    "longppl": "perplexity of the tokens that need a long context",
    "short": "benchmarks of short questions, through lm-eval",
}
"""Task to what it measures."""
_SHORTEST = 16
NEEDS_DOCUMENTS = frozenset({"ppl", "needle", "longppl", "ruler"})


@dataclass(frozen=True, kw_only=True)
class Request:
    """One evaluation."""

    target: str
    """A checkpoint folder, or the URL of a server."""
    out: Path
    lengths: tuple[int, ...] = (4096, 8192)
    """Tokens, ascending."""
    tasks: tuple[str, ...] = ("ppl", "passkey")
    methods: tuple[str, ...] = ()
    """Closed forms by name, ``none`` and ``checkpoint``."""
    tiers: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    long_for_all: bool = False
    documents: tuple[str, ...] = ("pydoc", "stdlib")
    document_tokens: int | None = None
    samples: int = 3
    """Documents of each group."""
    protocol: str = "prefix"
    depths: int = 5
    trials: int = 2
    evaluator: str | None = None
    ruler_tasks: tuple[str, ...] = tuple(RULER_TASKS)
    ruler_samples: int = 5
    squad: Path | None = None
    hotpot: Path | None = None
    """Files of questions for RULER's two tasks of question answering; made-up ones without."""
    benchmarks: tuple[str, ...] = ()
    benchmark_limit: int | None = None
    include_path: Path | None = None
    seed: int = 0
    chat: bool = False
    dtype: str = "bfloat16"
    device: str = "auto"
    label: str | None = None
    """Of a server, or of the checkpoint among others in one folder."""
    model: str | None = None
    tokenizer: str | None = None
    api_key: str | None = None
    concurrency: int = 1

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise EvaluationError(f"Expected tasks out of {', '.join(TASKS)}, found {task!r}.")
        for name in ("tasks", "lengths", "ruler_tasks"):
            if not getattr(self, name):
                raise EvaluationError(f"Expected at least one of --{name.replace('_', '-')}, found none.")
        if self.lengths[0] < _SHORTEST:
            raise EvaluationError(f"Expected lengths of at least {_SHORTEST} tokens, found {self.lengths[0]}.")
        if self.out.exists() and not self.out.is_dir():
            raise EvaluationError(f"Expected a folder for --out, found a file at {self.out}: name another.")
        for name in ("samples", "depths", "trials", "ruler_samples", "concurrency"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"Expected {name} of 1 or more, found {getattr(self, name)}.")
        if self.is_server and (self.methods or self.tiers or self.factors or self.long_for_all):
            raise EvaluationError(
                "Expected no factors for a server, which chose its own when it was started, found some: leave them "
                "out, or evaluate a checkpoint."
            )
        if not self.is_server and (self.model or self.concurrency > 1):
            raise EvaluationError(
                "Expected --model and --concurrency only with the URL of a server, found one with a checkpoint: "
                "leave it out."
            )
        if self.document_tokens is not None and self.document_tokens < self.lengths[-1]:
            raise EvaluationError(
                f"Expected documents of at least the longest length, {self.lengths[-1]:,} tokens, found "
                f"{self.document_tokens:,}: raise --document-tokens."
            )
        for option, path in self.files.items():
            if not path.exists():
                raise EvaluationError(f"Expected a file or folder for {option}, found none at {path}.")
        stride = Protocol.named(self.protocol).stride
        if stride is not None and stride > self.lengths[0] - 2:
            raise EvaluationError(
                f"Expected windows longer than the {stride:,} tokens they move by, found lengths from "
                f"{self.lengths[0]:,}: leave out the shorter ones, or name sliding:TOKENS with fewer."
            )
        for name in self.ruler_tasks:
            if name not in RULER_TASKS:
                raise EvaluationError(f"Expected RULER tasks out of {', '.join(RULER_TASKS)}, found {name!r}.")
        self._check_short()

    @property
    def is_server(self) -> bool:
        """True for a URL."""
        return self.target.startswith(("http://", "https://"))

    @property
    def files(self) -> dict[str, Path]:
        """Files that questions come from, by option."""
        named = {"--squad": self.squad, "--hotpot": self.hotpot, "--include-path": self.include_path}
        return {option: path for option, path in named.items() if path is not None}

    @property
    def depth_values(self) -> tuple[float, ...]:
        """Depths from 0 (the beginning) to 1, evenly; one depth is the middle."""
        if self.depths == 1:
            return (0.5,)
        return tuple(index / (self.depths - 1) for index in range(self.depths))

    def _check_short(self) -> None:
        if ("short" in self.tasks) != bool(self.benchmarks):
            raise EvaluationError(
                "Expected --benchmarks together with the task short, found one without the other: name benchmarks of "
                "lm-eval, such as arc_easy,hellaswag, or leave the task out."
            )

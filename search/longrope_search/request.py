"""What a user asks of one search, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from longrope_search.model.passages import OBJECTIVES, Objective
from longrope_search.space import SPACES, SpaceName
from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.labels import split_label

Method = Literal["evolution", "cma", "gradient"]
METHODS: tuple[Method, ...] = get_args(Method)

Kind = Literal["tiers", "short"]
"""Tiers past the length that the model knows, or tiers up to it, for a model that was fine-tuned for longer."""

ATTENTION_FACTORS = ("longrope", "yarn", "search")
"""By formula, or learned along with the factors (gradient)."""

_SHORTEST = 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """One search."""

    model: str
    """A checkpoint folder."""
    lengths: tuple[int, ...]
    """Targets in tokens, one tier for each."""
    out: Path
    """``factors.json`` to write."""
    kind: Kind = "tiers"
    study: str = ""
    """Where measurements are kept; beside ``out`` when empty."""
    name: str = ""
    """Of the search in a storage that holds several; that of ``out`` when empty."""
    method: str = "gradient+cma"
    """One of ``METHODS``, or several joined by ``+``, each of which begins with what the one before it found."""
    objective: Objective = "perplexity"
    space: SpaceName = "longrope"
    step: float = 1e-4
    """Grid of the factors."""
    largest: float | None = None
    """Largest factor relative to the footing, in place of the published bound."""
    start_tokens: str = "search"
    """``search``, or a number."""
    attention_factor: str = "longrope"
    """One of ``ATTENTION_FACTORS``, or a number."""
    footing: Path | None = None
    """Factors that the model was fine-tuned with, which the found ones multiply."""
    documents: tuple[str, ...] = ("pydoc", "stdlib")
    """``[GROUP=]SOURCE`` as ``longrope eval`` takes them."""
    samples: int = 5
    """Documents that candidates are scored on."""
    held_out: int = 3
    """Documents that only the best are scored on, at the end."""
    finalists: int = 3
    """How many of the best those are."""
    pruning: bool = True
    seed: int = 0
    population: int | None = None
    iterations: int | None = None
    """Of evolution; the published ones for the length when None."""
    patience: int | None = None
    evaluations: int | None = None
    """Of CMA-ES."""
    steps: int | None = None
    """Of gradient descent."""
    dtype: str = "bfloat16"
    device: str = "auto"

    def __post_init__(self) -> None:
        for method in self.method.split("+"):
            _one_of("--method", method, METHODS)
        _one_of("--objective", self.objective, OBJECTIVES)
        _one_of("--space", self.space, SPACES)
        if not self.lengths or self.lengths[0] < _SHORTEST:
            found = self.lengths[0] if self.lengths else "none"
            raise SearchError(f"Expected target lengths of at least {_SHORTEST} tokens, found {found}.")
        if not self.documents:
            raise SearchError("Expected at least one source of documents for --documents, found none.")
        for name, least in (("samples", 1), ("held_out", 1), ("finalists", 1), ("population", 4), ("iterations", 0),
                            ("patience", 1), ("evaluations", 1), ("steps", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise SearchError(f"Expected --{name.replace('_', '-')} of {least} or more, found {value}.")
        if not 0 <= self.seed < 1 << 32:
            raise SearchError(f"Expected a --seed from 0 to {(1 << 32) - 1}, found {self.seed}.")
        if not 1e-9 <= self.step <= 1.0:
            raise SearchError(f"Expected a --step from 1e-9 to 1, found {self.step}.")
        if self.largest is not None and not 1.0 <= self.largest < 1e6:
            raise SearchError(f"Expected --largest from 1 to a million, found {self.largest}.")
        if self.start_tokens != "search" and not self.start_tokens.isdecimal():
            raise SearchError(f"Expected --start-tokens search or a number, found {self.start_tokens!r}.")
        if self.start_tokens != "search" and int(self.start_tokens) >= self.lengths[0]:
            raise SearchError(
                f"Expected --start-tokens below the shortest target, found {self.start_tokens} and {self.lengths[0]}."
            )
        if self.attention_factor not in ATTENTION_FACTORS and _number(self.attention_factor) is None:
            raise SearchError(
                f"Expected --attention-factor {', '.join(ATTENTION_FACTORS)} or a number above 0, found "
                f"{self.attention_factor!r}."
            )
        if self.attention_factor == "search" and "gradient" not in self.methods:
            raise SearchError(f"Expected gradient as a method for --attention-factor search, found {self.method}.")
        if self.kind == "short" and self.space != "longrope":
            raise SearchError("Expected --space longrope for short lengths: longrope2 is about longer ones.")
        if self.footing is not None and not self.footing.is_file():
            raise SearchError(f"Expected factors for --from, found no file at {self.footing}.")

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those of ``method``."""
        return tuple(known for found in self.method.split("+") for known in METHODS if known == found)

    @property
    def storage(self) -> str:
        """Place of the study."""
        return self.study or str(self.out.with_suffix(".study.log"))

    @property
    def title(self) -> str:
        """Name of the search in its storage."""
        return self.name or self.out.stem

    @property
    def stated_attention_factor(self) -> float | None:
        """The number, where one was given."""
        return _number(self.attention_factor)

    def check_out(self) -> None:
        """Raise ``SearchError`` unless the files that will be written are three, and their folder is there."""
        if self.out.is_dir() or not self.out.absolute().parent.is_dir():
            raise SearchError(f"Expected a file in a folder that exists for --out, found {self.out}.")
        written = [self.out.resolve(), self.page.resolve(), Path(self.storage).resolve()]
        if len(set(written)) < len(written):
            raise SearchError(
                f"Expected different files for factors, report and study, found {self.out}, {self.page} and "
                f"{self.storage}: give --out the ending .json, and --study a file of its own."
            )

    @property
    def page(self) -> Path:
        """The report that is written beside the factors."""
        return self.out.with_suffix(".html")

    def shared(self) -> dict[str, Any]:
        """All of it in JSON, with whole paths, for workers that join by the study alone."""
        found = asdict(self) | {
            "model": str(Path(self.model).absolute()),
            "study": "",  # whoever reads this has it open, and its URL may hold a password
            "documents": [_whole_path(source) for source in self.documents],
        }
        return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in found.items()}

    @classmethod
    def of_shared(cls, stated: Mapping[str, Any], **changed: Any) -> Self:
        """The request that ``shared`` was made from, with what is ``changed`` on this machine."""
        known = {found.name for found in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in {**stated, **changed}.items()
            if name in known
        }
        values |= {"out": Path(values["out"]), "footing": Path(values["footing"]) if values["footing"] else None}
        return cls(**values)


def _whole_path(source: str) -> str:
    """``[GROUP=]SOURCE`` with the whole path of a file or folder."""
    label, place = split_label(source)
    path, mark, field = place.partition("#")
    whole = str(Path(path).absolute()) if Path(path).exists() else path
    return f"{label}={whole}{mark}{field}" if label else f"{whole}{mark}{field}"


def _one_of(option: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise SearchError(f"Expected {option} {', '.join(known)}, found {found!r}.")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None

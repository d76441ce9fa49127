"""Benchmarks of lm-eval by name, with their documents, or one sentence that says why there are none.

Local task files are looked through first, because lm-eval's own are thousands. The documents of RULER are made for one
length and bounded in number: lm-eval makes 500 whatever is asked, from random states that are set here.
"""

import difflib
import io
import random
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.harness.ruler_bounds import Ruler, bounded
from longrope_vllm.extras import require

SEED = 1234
_MEASURED = ("loglikelihood", "multiple_choice", "generate_until")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One task of lm-eval with its documents."""

    name: str
    task: Any
    """An ``lm_eval.api.task.Task``."""
    documents: Any
    """What is asked, by index."""
    length: int
    """Tokens the documents were made for; 0 for short questions."""
    kept: dict[Hashable, tuple[Any, ...]] = field(default_factory=dict)
    """Requests that were made from its documents."""
    lock: AbstractContextManager[Any] = field(default_factory=RLock)
    """Held by whoever uses ``task``, which has state."""


class Benchmarks:
    """Loads benchmarks and keeps them; several models can be measured on the same ones."""

    def __init__(self, *, include_path: Path | None = None, ruler: Ruler | None = None, seed: int = SEED) -> None:
        """``include_path`` is a folder of task files (YAML); ``ruler`` is needed for the tasks of RULER only.

        Raises ``MissingExtraError`` without lm-eval and ``EvaluationError`` for a folder that is none.
        """
        if include_path is not None and not include_path.is_dir():
            raise EvaluationError(f"Expected a folder of lm-eval task files, found none at {include_path}.")
        self.seed = seed
        self._module = require("lm_eval.tasks", "eval")
        self._include_path = include_path
        self._ruler = ruler
        self._managers: dict[bool, Any] = {}
        self._loaded: dict[str, Benchmark] = {}

    def load(self, name: str) -> Benchmark:
        """The benchmark ``name``. Raises ``EvaluationError`` when there is none, or when it cannot be measured."""
        if name not in self._loaded:
            manager, entry = self._find(name)
            ruler = self._ruler_for(name, entry)
            with _quiet(), _seeded(self.seed), ExitStack() as stack:
                try:
                    if ruler is not None:
                        stack.enter_context(bounded(name, entry.yaml_path, ruler))
                    task = manager.load([name])["tasks"][name]
                    documents = task.eval_docs
                except (OSError, ValueError, LookupError, ImportError, self._data_errors()) as error:
                    raise _no_data(name, entry, error) from error
            _check_measurable(name, task)
            self._loaded[name] = Benchmark(
                name=name,
                task=task,
                documents=documents if hasattr(documents, "__getitem__") else list(documents),
                length=ruler.length if ruler is not None else 0,
            )
        return self._loaded[name]

    def _find(self, name: str) -> tuple[Any, Any]:
        """The manager that knows ``name``, and what it knows."""
        for defaults in (False, True) if self._include_path else (True,):
            manager = self._manager(include_defaults=defaults)
            if name in manager.task_index:
                entry = manager.task_index[name]
                if entry.kind.name in ("GROUP", "TAG"):
                    raise EvaluationError(
                        f"Expected one benchmark, found the {entry.kind.name.lower()} {name!r} of several: name "
                        f"those that you want ({', '.join(_members(entry))})."
                    )
                return manager, entry
        near = difflib.get_close_matches(name, manager.all_subtasks, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "lm-eval ls tasks prints them."
        raise EvaluationError(f"Expected the name of an lm-eval benchmark, found {name!r}: {hint}")

    def _manager(self, *, include_defaults: bool) -> Any:
        if include_defaults not in self._managers:
            self._managers[include_defaults] = self._module.TaskManager(
                include_path=None if self._include_path is None else str(self._include_path),
                include_defaults=include_defaults,
                metadata=None if self._ruler is None else self._ruler.metadata,
            )
        return self._managers[include_defaults]

    def _ruler_for(self, name: str, entry: Any) -> Ruler | None:
        if entry.yaml_path is None or entry.yaml_path.parts[-3:-1] != ("tasks", "ruler"):
            return None
        if self._ruler is None:
            raise EvaluationError(
                f"Expected a length, a number of samples and a tokenizer for {name}, found none: the documents of "
                "RULER are made for them."
            )
        return self._ruler

    def _data_errors(self) -> type[Exception]:
        found: type[Exception] = require("datasets.exceptions", "eval").DatasetsError
        return found


def _members(entry: Any) -> list[str]:
    if entry.tags or entry.yaml_path is None:
        return sorted(entry.tags)
    stated = require("lm_eval.tasks._yaml_loader", "eval").load_yaml(entry.yaml_path, resolve_func=False)["task"]
    named = [member if isinstance(member, str) else member.get("task") or member.get("group") for member in stated]
    return [str(member) for member in named]


def _no_data(name: str, entry: Any, error: Exception) -> EvaluationError:
    """What ``name`` needs and how to get it there, in a sentence."""
    stated: dict[str, Any] = {}
    if entry.yaml_path is not None:
        stated = require("lm_eval.tasks._yaml_loader", "eval").load_yaml(entry.yaml_path, resolve_func=False)
    needed = " ".join(str(stated[key]) for key in ("dataset_path", "dataset_name") if stated.get(key))
    return EvaluationError(
        f"Expected the data of the benchmark {name}{f' (the data set {needed})' if needed else ''}, found "
        f"{type(error).__name__}: {str(error).strip() or 'no more is said'} - load it once where there is a network "
        "and bring its cache along (HF_HOME, and HF_DATASETS_OFFLINE=1 to stay offline), or describe local files in a "
        "task of your own and name its folder with --include-path."
    )


def _check_measurable(name: str, task: Any) -> None:
    """Raise ``EvaluationError`` for a task that needs more than text in and greedy text or its likelihood out."""
    settings = getattr(task.config, "generation_kwargs", None) or {}
    found = None
    if getattr(task, "UNSAFE_CODE", False):
        found = "one that runs the code a model writes"
    elif getattr(task, "MULTIMODAL", False):
        found = "one with images or sound"
    elif task.OUTPUT_TYPE not in _MEASURED:
        found = f"the output type {task.OUTPUT_TYPE}"
    elif task.OUTPUT_TYPE == "generate_until" and (settings.get("do_sample") or settings.get("temperature")):
        found = "sampled answers"
    if found:
        raise EvaluationError(
            f"Expected a benchmark of questions in text with greedy answers or choices, found {found} in {name}: leave "
            "it out."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block nothing is printed: lm-eval and RULER draw progress bars while they load documents.

    It holds for the whole process, so it is for planning, where there is one thread.
    """
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within the block the global random states start at ``seed``, which is what RULER draws from."""
    plain, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(numpy)

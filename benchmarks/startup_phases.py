"""One of vLLM's processes, started again and again: ``python startup_phases.py PROCESS MODEL PAIRS OUT``.

Imports what vLLM imports in that process before it looks for plugins, then forks for each start, with the plugin and
without: so a start is measured from that moment on, and nothing of ours is imported before it. OUT is JSON: ``stock``
and ``longrope`` (``Start``, in pairs), ``sampled`` (seconds) and ``modules`` (imported with the plugin only). The
configuration of an API server is pickled beside MODEL, and the engine begins with it, as a spawned one does.
"""

import importlib
import json
import multiprocessing
import os
import pickle
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sampler import Sampler

SAMPLED = 5
IMPORTED = {
    "configuration": "vllm.engine.arg_utils",
    "API server": "vllm.entrypoints.openai.api_server",
    "engine": "vllm.v1.engine.core",
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seconds on the clock, of processor time with ended children, of the plugin by samples; files of its modules."""

    wall: float
    cpu: float
    sampled: float
    files: tuple[str, ...]


def configuration(model: str, pickled: Path) -> None:
    """What every process that makes an engine does first."""
    from vllm.engine.arg_utils import EngineArgs

    EngineArgs(
        model=model, load_format="dummy", enforce_eager=True, max_num_seqs=8, max_model_len=131_072
    ).create_engine_config()


def api_server(model: str, pickled: Path) -> None:
    """Options, configuration, input and output processing, HTTP routes: all of the API server but its engine."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.api_server import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = ["--model", model, "--load-format", "dummy", "--enforce-eager", "--max-num-seqs", "8"]
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([*options, "--max-model-len", "131072"])
    config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    importlib.import_module("vllm.v1.engine.async_llm")
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor

    processor = InputProcessor(config)
    OutputProcessor(processor.tokenizer, log_stats=True)
    build_app(arguments, ("generate",), config.model_config)
    pickled.write_bytes(pickle.dumps(config))


def engine(model: str, pickled: Path) -> None:
    """Scheduler, worker, model and KV cache in one process, up to the point where requests could come."""
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    EngineCore(pickle.loads(pickled.read_bytes()), UniProcExecutor, log_stats=True)


PROCESSES = {"configuration": configuration, "API server": api_server, "engine": engine}


def begin(process: str, model: str, plugins: str, stock_files: set[str] | None, out: Path) -> None:
    """In a fork: start, then write a ``Start``; sampled when it is known what stock vLLM imports."""
    os.environ["VLLM_PLUGINS"] = plugins
    sampler = Sampler()
    if stock_files is not None:
        sampler.start()
    before, started = os.times(), time.perf_counter()
    PROCESSES[process](model, Path(f"{model}.{plugins or 'stock'}.pickle"))
    wall, after = time.perf_counter() - started, os.times()
    sampled = 0.0 if stock_files is None else sampler.plugin(stock_files)
    files = tuple(str(file) for module in [*sys.modules.values()] if (file := vars(module).get("__file__")))
    cpu = sum(after[:4]) - sum(before[:4])
    out.write_text(json.dumps(asdict(Start(wall=wall, cpu=cpu, sampled=sampled, files=files))))
    os._exit(0)  # an engine without a server has nobody to end it


def fresh(process: str, model: str, plugins: str, stock_files: set[str] | None = None) -> Start:
    """One start in a fork of this process."""
    out = Path(f"{model}.start.json")
    fork = multiprocessing.get_context("fork").Process(target=begin, args=(process, model, plugins, stock_files, out))
    fork.start()
    fork.join()
    if fork.exitcode != 0:
        raise RuntimeError(f"{process} with VLLM_PLUGINS={plugins!r} ended with {fork.exitcode}")
    return Start(**json.loads(out.read_text()))


def main(process: str, model: str, pairs: str, out: str) -> None:
    """Start in pairs, in turns; then with samples. The first pair fills caches and is not kept."""
    importlib.import_module(IMPORTED[process])
    assert not any(name.startswith("longrope_vllm") for name in sys.modules)
    found: dict[str, list[Start]] = {"": [], "longrope": []}
    for number in range(int(pairs) + 1):
        for plugins in ("", "longrope") if number % 2 else ("longrope", ""):
            start = fresh(process, model, plugins)
            if number > 0:
                found[plugins].append(start)
    stock_files = {file for start in found[""] for file in start.files}
    sampled = [fresh(process, model, "longrope", stock_files).sampled for _ in range(SAMPLED)]
    rows = {
        plugins or "stock": [{"wall": start.wall, "cpu": start.cpu} for start in starts]
        for plugins, starts in found.items()
    }
    modules = sorted({file for start in found["longrope"] for file in start.files} - stock_files)
    Path(out).write_text(json.dumps(rows | {"sampled": sampled, "modules": modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])

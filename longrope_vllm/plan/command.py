"""``longrope plan MODEL``: what a server of a model needs and reaches on given GPUs, before there is one.

    longrope plan MODEL --context 1M --gpus 8xH100-80 [--factors FILE | --preset NAME | --tiers SPEC]
    longrope plan MODEL --context 16k --cpu
    longrope plan MODEL --context 2M --gpus 2x8xH100-80 --kv-cache-dtype fp8 --helm-values > values.yaml

MODEL is a checkpoint directory (its config.json is enough) or a name on the hub, of which only that is downloaded.
Exit status 1: it does not fit, and what would is said.
"""

import argparse
import json
from collections.abc import Sequence

from rich.console import Console

from longrope_vllm.chosen_factors import ChosenFactors, add_factor_options
from longrope_vllm.errors import PlanError
from longrope_vllm.factors import Factors
from longrope_vllm.gpus import KNOWN
from longrope_vllm.lengths import format_length, parse_length
from longrope_vllm.plan.checkpoint import read_model
from longrope_vllm.plan.cluster import parse_cluster
from longrope_vllm.plan.cpu_report import cpu_document, cpu_report, plan_for_cpu
from longrope_vllm.plan.document import document
from longrope_vllm.plan.gpu_memory import UTILIZATION
from longrope_vllm.plan.helm_values import helm_values
from longrope_vllm.plan.kv_cache import KV_DTYPES
from longrope_vllm.plan.prefill_time import Utilisation, parse_utilisation
from longrope_vllm.plan.report import reach_note, report
from longrope_vllm.plan.served_model import DTYPES, ServedModel
from longrope_vllm.plan.serving import ServingPlan, Wish

DOES_NOT_FIT = 1
"""Exit status."""


def run(prog: str, arguments: Sequence[str]) -> int:
    """``longrope plan ARGUMENTS``. Raises ``LongRopeError``."""
    asked = _parser(prog).parse_args(arguments)
    folder, config = read_model(asked.model)
    model = ServedModel.of(config, folder, dtype=asked.dtype)
    chosen = ChosenFactors.from_arguments(asked)
    factors, named = chosen.for_config(config) or model.factors, chosen.as_options()
    context = parse_length(asked.context) if asked.context else (factors.max_length if factors else model.reach)
    if named and factors is not None and factors.max_length < context:
        raise PlanError(
            f"Expected factors that reach the {format_length(context)} tokens of --context, found some up to "
            f"{format_length(factors.max_length)}: name others, or a shorter context."
        )
    if asked.cpu is not None:
        return _plan_cpu(asked, model, context, factors, named)
    wish = Wish(
        context=context,
        cluster=parse_cluster(asked.gpus),
        kv_dtype=asked.kv_cache_dtype,
        quantization=asked.quantization,
        chunk=asked.max_num_batched_tokens,
        sequences=asked.max_num_seqs,
        utilization=asked.gpu_memory_utilization,
        shares=parse_utilisation(asked.utilisation),
    )
    plan = ServingPlan.of(model, wish, factors)
    if asked.json:
        text = json.dumps(document(asked.model, plan, named), indent=2)
    elif asked.helm_values and plan.fits:
        text = helm_values(asked.model, plan, named).rstrip()
    else:
        text = report(asked.model, plan, named)
    return _printed(text, fits=plan.fits)


def _plan_cpu(
    asked: argparse.Namespace, model: ServedModel, context: int, factors: Factors | None, named: tuple[str, ...]
) -> int:
    if asked.helm_values:
        raise PlanError("Expected --gpus for --helm-values, found --cpu: the chart's values are those of GPUs.")
    memory = plan_for_cpu(model, context, space=asked.cpu, factors=factors)
    if asked.json:
        text = json.dumps(cpu_document(asked.model, context, memory), indent=2)
    else:
        text = cpu_report(asked.model, context, memory, named, note=reach_note(model, factors, context))
    return _printed(text, fits=memory.fits)


def _printed(text: str, *, fits: bool) -> int:
    Console(highlight=False).print(text, markup=False, soft_wrap=True)
    return 0 if fits else DOES_NOT_FIT


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    shares = Utilisation()
    parser.add_argument("model", help="checkpoint directory or name on the hub")
    parser.add_argument("--context", metavar="LENGTH", help="longest sequence, as 1M (the longest tier)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--gpus",
        help=f"GPUs of one server: 8xH100-80, 2x8xH100-80 for two nodes, 4x80 (GB); known are {', '.join(KNOWN)}",
    )
    where.add_argument(
        "--cpu",
        type=_positive,
        nargs="?",
        const=0,
        metavar="GIB",
        help="the CPU engine, with so many GiB of keys and values (those of one sequence)",
    )
    add_factor_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="of the arithmetic (bfloat16 or what the checkpoint says)")
    parser.add_argument("--kv-cache-dtype", choices=KV_DTYPES, default="auto", help="of keys and values (auto)")
    parser.add_argument("--quantization", choices=("fp8",), help="of weights that are not quantized yet, while loading")
    parser.add_argument("--max-num-batched-tokens", type=_positive, metavar="TOKENS", help="tokens of a step")
    parser.add_argument("--max-num-seqs", type=_positive, metavar="N", help="sequences at once")
    parser.add_argument(
        "--gpu-memory-utilization",
        type=_share,
        default=UTILIZATION,
        metavar="SHARE",
        help=f"of a GPU's memory that vLLM may take ({UTILIZATION:g})",
    )
    parser.add_argument(
        "--utilisation",
        default=f"{shares.low:g}-{shares.high:g}",
        metavar="SHARES",
        help="of the GPUs' peak that a prefill reaches, one or two (%(default)s)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the plan in JSON")
    how.add_argument("--helm-values", action="store_true", help="print values for the Helm chart")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(text)
    return value

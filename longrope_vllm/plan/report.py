"""A plan as text: what lies where, how long, and what to type."""

from collections.abc import Mapping, Sequence

from longrope_vllm.factors import Factors
from longrope_vllm.lengths import format_length
from longrope_vllm.plan.batch import TOKEN_BYTES
from longrope_vllm.plan.context_parallel import context_parallel_notes
from longrope_vllm.plan.kv_cache import token_bytes
from longrope_vllm.plan.launch import environment, launch_lines
from longrope_vllm.plan.remedies import remedies
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.plan.serving import ServingPlan
from longrope_vllm.plan.timeouts import ANSWER, body_size
from longrope_vllm.server.files.settings import TEXTS_AT_ONCE

_SMALL = 50_000_000  # bytes below which MB are said


def report(model: str, plan: ServingPlan, chosen: Sequence[str] = ()) -> str:
    """Lines about ``plan``; ``chosen`` are the options that name factors."""
    parts = [_head(model, plan), _memory(plan)]
    if not plan.fits:
        return "\n\n".join([*parts, _lines("does not fit; what would", dict(_listed(remedies(plan))))])
    parts += [_time(plan), _lines("context parallel", dict(_listed(context_parallel_notes(plan.model, plan.layout))))]
    parts += [_patience(plan), _launch(model, plan, chosen)]
    return "\n\n".join(parts)


def reach_note(model: ServedModel, factors: Factors | None, context: int) -> str:
    """What to do about a rope that ends below ``context``, else nothing."""
    reach = model.reach if factors is None else factors.max_length
    if reach >= context:
        return ""
    wanted = f"find factors for {format_length(context)} (longrope search), or name --tiers"
    return f"its rope reaches {format_length(reach)} tokens: {wanted}"


def size_text(amount: int) -> str:
    """``amount`` bytes in MB or GB of 1e6 and 1e9."""
    return f"{amount / 1e6:.1f} MB" if abs(amount) < _SMALL else f"{amount / 1e9:.1f} GB"


def _head(name: str, plan: ServingPlan) -> str:
    model, layout, batch = plan.model, plan.layout, plan.gpu.batch
    where = {"files": "counted in its files", "index": "by its index", "config": "by its configuration"}[model.counted]
    stages = f", {layout.pipeline} pipeline stages" if layout.pipeline > 1 else ""
    attention = f"{model.heads} heads, {model.kv_heads} of keys and values"
    lines = {
        "model": f"{name}: {model.parameters / 1e9:.2f}B parameters ({where}), {model.layers} layers, {attention}",
        "layout": f"{plan.wish.cluster.title}: {layout.tensor}-way tensor parallel{stages}",
        "batch": f"{format_length(batch.context)} tokens of context, {batch.chunk:,} tokens a step, {batch.sequences} "
        "sequences at once",
    }
    note = reach_note(plan.model, plan.factors, batch.context)
    if note:
        lines["note"] = note
    return _lines("", lines)


def _memory(plan: ServingPlan) -> str:
    gpu, batch = plan.gpu, plan.gpu.batch
    kinds = " + ".join(f"{format_length(length)} {size_text(taken)}" for length, taken in gpu.tables.items())
    rows = f", rows of a step {size_text(gpu.rows)}" if gpu.rows else ""
    a_token = token_bytes(plan.model, batch.kv_dtype) / 1024
    shared = "; all tiers share one pool" if len(gpu.tables) > 1 else ""
    dtype = plan.model.dtype if batch.kv_dtype == "auto" else batch.kv_dtype
    lines = {
        "weights": size_text(gpu.weights),
        "rope tables": f"{size_text(sum(gpu.tables.values()) + gpu.rows)} ({kinds}{rows})",
        "a step": f"{size_text(gpu.step)} for {batch.chunk:,} tokens",
        "block tables": size_text(gpu.blocks),
        "runtime": f"{size_text(gpu.runtime)} (assumed: CUDA, NCCL, CUDA graphs)",
        "a sequence": f"{size_text(gpu.sequence)} of keys and values for {format_length(batch.context)} tokens ("
        f"{dtype}: {a_token:g} KiB a token{shared})",
        "left for them": f"{size_text(gpu.pool)} of {gpu.memory / 1e9:.0f} GB x {gpu.utilization:g}: "
        f"{gpu.concurrent:.1f} sequences of {format_length(batch.context)}",
    }
    host, of_host = plan.host, plan.host.parts
    workers = "1 worker" if host.workers == 1 else f"{host.workers} workers"
    on_host = {
        "processes": size_text(of_host["processes"]),
        "token arrays": f"{size_text(of_host['arrays'])} ({workers} x {batch.sequences} sequences x "
        f"{format_length(batch.context)} tokens x {TOKEN_BYTES} bytes)",
        "documents": f"{size_text(of_host['documents'])} ({TEXTS_AT_ONCE} of HTML or PDF that are read at once)",
        "/dev/shm": size_text(of_host["shared"]),
        "in all": size_text(host.needed),
    }
    return _lines("memory of a GPU", lines) + "\n\n" + _lines("memory of a node's host", on_host)


def _time(plan: ServingPlan) -> str:
    time, shares = plan.time, plan.wish.shares
    if time is None:
        return _lines("time", {"unknown": "the arithmetic of these GPUs is not known by their name"})
    one = f"{shares.low:.0%} to {shares.high:.0%}" if shares.low < shares.high else f"{shares.low:.0%}"
    span = _span(time.best, time.worst)
    lines = {
        "first token": f"{span} for {format_length(plan.gpu.batch.context)} tokens alone: {time.flops:.2g} "
        f"operations at {one} of the peak (assumed)",
        "a step": f"up to {time.longest_step:.1f} s",
    }
    if time.tokens_per_second is not None:
        lines["answer"] = f"at most {time.tokens_per_second:.0f} tokens/s of one such sequence, by bandwidth"
    return _lines("time", lines)


def _patience(plan: ServingPlan) -> str:
    told = plan.timeouts
    lines = {
        "client": f"timeout={told.client}, max_retries=0 (one such prompt before it, and {ANSWER:,} tokens of answer)",
        "nginx": f"proxy_read_timeout {told.proxy_read}s; proxy_send_timeout {told.proxy_send}s; client_max_body_size "
        f"{body_size()};",
        "probes": f"startup {told.startup} s, liveness {told.liveness} s, progressDeadlineSeconds "
        f"{told.progress_deadline}",
        "drain": f"preStop {told.pre_stop} s, --shutdown-timeout {told.shutdown}, terminationGracePeriodSeconds "
        f"{told.grace}",
    }
    return _lines("time-outs", lines)


def _launch(model: str, plan: ServingPlan, chosen: Sequence[str]) -> str:
    variables = " ".join(f"{name}={value}" for name, value in environment(plan).items())
    return "\n".join(["start", f"  export {variables}", *(f"  {line}" for line in launch_lines(model, plan, chosen))])


def _lines(title: str, lines: Mapping[str, str]) -> str:
    width = max(map(len, lines), default=0)
    indent = "  " if title else ""
    listed = [f"{indent}{name:{width}}  {text}" if width else f"{indent}{text}" for name, text in lines.items()]
    return "\n".join([*([title] if title else []), *listed])


def _listed(sentences: Sequence[str]) -> list[tuple[str, str]]:
    """Sentences under the words before their colons."""
    split = [sentence.partition(": ") for sentence in sentences]
    return [(name, text) if text else ("", name) for name, _, text in split]


def _span(low: float, high: float) -> str:
    first, last = f"{low:.0f}", f"{high:.0f}"
    return f"{first} s" if first == last else f"{first} to {last} s"

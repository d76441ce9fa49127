"""A plan as values of a Helm chart: all that depends on the model, its context and the GPUs, nothing else."""

import shlex
from collections.abc import Sequence
from math import ceil
from typing import Any

import yaml

from longrope_vllm.plan.launch import environment, launch_options
from longrope_vllm.plan.serving import ServingPlan
from longrope_vllm.plan.timeouts import body_size

_HEADROOM = 1.25  # of the host's memory, for uploads, prompts in work and the reading of weights
_PERIOD = 10  # seconds between two probes
_GIB = 1 << 30


def helm_values(model: str, plan: ServingPlan, chosen: Sequence[str] = ()) -> str:
    """YAML of ``values``, with a line on top that says where it comes from."""
    context, gpus = plan.gpu.batch.context, plan.wish.cluster.title
    command = ["longrope", "plan", model, "--context", str(context), "--gpus", gpus, *chosen, "--helm-values"]
    text: str = yaml.safe_dump(values(model, plan, chosen), sort_keys=False, width=120)
    return f"# {shlex.join(command)}\n{text}"


def values(model: str, plan: ServingPlan, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds, and quantities as Kubernetes and nginx write them."""
    told = plan.timeouts
    return {
        "model": model,
        "context": plan.gpu.batch.context,
        "pipeline": {"nodes": plan.layout.nodes, "tensor": plan.layout.tensor, "stages": plan.layout.pipeline},
        "resources": {
            "gpus": plan.layout.ranks_of_a_node,
            "memory": _gibibytes((plan.host.needed - plan.host.shared) * _HEADROOM + plan.host.shared),
            "shm": _gibibytes(plan.host.shared),
        },
        "args": list(launch_options(plan, chosen)),
        "env": environment(plan),
        "probes": {
            "startup": _probe(told.startup),
            "liveness": _probe(told.liveness),
            "readiness": _probe(3 * _PERIOD),
        },
        "progressDeadlineSeconds": told.progress_deadline,
        "preStopSeconds": told.pre_stop,
        "shutdownTimeout": told.shutdown,
        "gracePeriod": told.grace,
        "client": {"timeout": told.client, "retries": 0},
        "proxy": {
            "bodySize": body_size(),
            "readTimeout": f"{told.proxy_read}s",
            "sendTimeout": f"{told.proxy_send}s",
        },
        "keda": {"queuedPromptTokens": plan.gpu.batch.context},
    }


def _probe(silence: int) -> dict[str, int]:
    """A probe that fails after ``silence`` seconds of failures."""
    return {"periodSeconds": _PERIOD, "timeoutSeconds": 5, "failureThreshold": ceil(silence / _PERIOD)}


def _gibibytes(amount: float) -> str:
    return f"{ceil(amount / _GIB)}Gi"

"""Serve a long mix of requests, some of them aborted, with every KV block watched: ``python soak_run.py JOB RESULT``.

JOB is as for ``engine_run.py``, with ``boundaries`` (longest sequence of each tier in force), ``resets`` (steps before
which the prefix cache is emptied under the running requests, as after new weights), in each request ``start`` (the
length by which it gets its first tier) and in some of them ``abort``: the ``phase`` (see ``phase``) in which the
request is aborted, after ``patience`` steps in it, and ``midstep``, for an abort that comes in while the model runs.
RESULT is JSON: ``answers`` by request id, ``aborted`` (id to phase), ``seen`` and ``violations`` of the watch,
``left_over`` when all is done.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from block_watch import BlockWatch
from engine_run import add, answer, started_engine


def main(job_path: str, result_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    engine = started_engine(job)
    core = engine.engine_core.engine_core
    watch = BlockWatch(core.scheduler, job["boundaries"])
    arriving = sorted(job["requests"], key=lambda request: request["arrive"])
    doomed: dict[str, dict[str, Any]] = {}
    aborted: dict[str, str] = {}
    answers: dict[str, dict[str, object]] = {}
    step = 0
    while arriving or engine.has_unfinished_requests():
        while arriving and (arriving[0]["arrive"] <= step or not engine.has_unfinished_requests()):
            request = arriving.pop(0)
            known = add(engine, request)
            watch.start_of[known] = request["start"]
            if "abort" in request:
                doomed[known] = request["abort"]
        for known in list(to_abort(core, watch, doomed)):
            wanted = doomed.pop(known)
            aborted[known.rpartition("-")[0]] = wanted["phase"]
            abort(engine, known, midstep=wanted["midstep"])
        if step in job["resets"]:
            assert engine.reset_prefix_cache(reset_running_requests=True)
        for output in engine.step():
            if output.finished and output.request_id not in aborted:
                answers[output.request_id] = answer(output) | {"status": core.longrope_request(output.request_id)}
        step += 1
    drain(core)
    found = {"answers": answers, "aborted": aborted, "seen": watch.seen, "violations": watch.violations}
    Path(result_path).write_text(json.dumps(found | {"left_over": watch.left_over() | runner_left_over(core)}))


def phase(request: Any, watch: BlockWatch) -> str:
    """Where a request is between two steps."""
    if not request.num_preemptions and request.status.name != "RUNNING":
        return "waiting"
    if request.status.name != "RUNNING":
        return "preempted"
    if watch.tier(request, ahead=request.num_output_placeholders) > watch.tier_in_force[request.request_id]:
        return "crossing"
    if request.is_prefill_chunk:
        return "prefilling again" if request.num_output_tokens else "prefilling"
    return "decoding"


def to_abort(core: Any, watch: BlockWatch, doomed: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Requests whose time has come, by the id they have inside."""
    for known, wanted in doomed.items():
        request = core.scheduler.requests.get(known)
        if request is None or phase(request, watch) != wanted["phase"]:
            continue
        wanted["patience"] -= 1
        if wanted["patience"] < 0:
            yield known


def abort(engine: Any, known: str, *, midstep: bool) -> None:
    """As a client that goes away: now, or while the next step runs."""
    if not midstep:
        engine.abort_request([known], internal=True)
        return
    engine.output_processor.abort_requests([known], internal=True)
    engine.engine_core.engine_core.aborts_queue.put_nowait([known])


def drain(core: Any) -> None:
    """Steps that only clean up: output of aborted requests in flight, news of finished ones for the workers."""
    while core.scheduler.has_requests() or core.batch_queue:
        core.step_fn()


def runner_left_over(core: Any) -> dict[str, int]:
    """Requests that the model runner still knows; of the second one the plugin keeps slots, not names."""
    runner = core.model_executor.driver_worker.worker.model_runner
    if core.vllm_config.use_v2_model_runner:
        return {"requests in the runner": len(runner.req_states.req_id_to_index)}
    return {
        "requests in the runner": len(runner.requests),
        "tiers in the runner": len(runner.longrope_tracking.tier_of),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Does a longrope server that was just deployed do its work? One short run against its URL, from any machine.

    python deploy/smoke.py http://HOST:8000 [--wait SECONDS] [--long 1M] [--api-key KEY | VLLM_API_KEY=KEY]

It asks for health, model and tiers, sends a short request, one past the first tier (as a stream) and one that crosses
into the next tier while it generates, and reads the metrics. Prompts are token ids: their lengths are exact for every
tokenizer. Out: one line a check. Exit code: 0 all passed, 1 a check failed, 2 a wrong option. Python 3.11, no packages.
"""

import argparse
import http.client
import os
import random
import re
import sys
import time
import urllib.error
from collections.abc import Callable

import smoke_checks as checks
from smoke_server import GENERATED, UNITS, CheckError, Server, wait

WORDS = range(32, 96)
"""Token ids of prompts: every tokenizer has them, and none of the usual ones ends a text there."""


def passed(name: str, check: Callable[[], str]) -> bool:
    """Run one check and print its line."""
    try:
        line, ok = check(), True
    except urllib.error.HTTPError as error:
        with error:
            line, ok = f"Expected an answer, found HTTP {error.code} at {error.url}: {error.read(300).decode()}", False
    except CheckError as error:
        line, ok = str(error), False
    except (OSError, http.client.HTTPException) as error:
        line, ok = f"Expected an answer, found none: {error}.", False
    except (KeyError, ValueError, StopIteration, TypeError) as error:
        line, ok = f"Expected the JSON of a longrope server, found something else ({error!r}).", False
    print(f"{'ok' if ok else 'FAILED':<8}{name:<10}{line}", flush=True)
    return ok


def run(server: Server, asked: argparse.Namespace) -> bool:
    """All checks in turn; without health, model and tiers the others would say nothing."""
    first: list[tuple[str, Callable[[], str]]] = [
        ("health", lambda: checks.health(server)),
        ("key", lambda: checks.key(server)),
        ("model", lambda: checks.model(server)),
        ("tiers", lambda: checks.tiers(server, asked.expect_tiers)),
    ]
    if not all(passed(name, check) for name, check in first):
        return False
    past_first = server.lengths[0] + checks.PAST if server.has_tiers else server.limit // 2
    tokens = min(asked.long or past_first, server.limit - GENERATED)
    # New ones each time: nothing of them lies in the prefix cache.
    prompt = random.Random(time.time_ns()).choices(WORDS, k=max([checks.SHORT, tokens, *server.lengths[:1]]))
    then: list[tuple[str, Callable[[], str]]] = [
        ("short", lambda: checks.short(server, prompt)),
        ("long", lambda: checks.long(server, prompt[:tokens], asked.long)),
    ]
    if server.has_tiers:
        then.append(("crossing", lambda: checks.crossing(server, prompt)))
    if asked.metrics != "none":
        end = checks.metrics if asked.metrics == "several" or not server.has_tiers else checks.grown_metrics
        then = [("counters", lambda: checks.counters(server)), *then, ("metrics", lambda: end(server))]
    results = [passed(name, check) for name, check in then]  # each of them, whatever the others say
    return all(results)


def length(text: str) -> int:
    """Tokens named by ``text``, such as 8192, 128k or 1M."""
    match = re.fullmatch(r"(\d+)([km]?)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a length such as 8192, 128k or 1M, found {text!r}")
    return int(match[1]) * UNITS[match[2]]


def main() -> int:
    """Read the options, run the checks, print the sum."""
    parser = argparse.ArgumentParser("smoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the server is, without /v1")
    parser.add_argument(
        "--api-key", default=os.environ.get("VLLM_API_KEY"), help="default: VLLM_API_KEY in the environment"
    )
    parser.add_argument("--model", default="", help="the served name (default: the first of /v1/models)")
    parser.add_argument("--expect-tiers", type=int, default=2, metavar="N", help="fewer is a failure (default: 2)")
    parser.add_argument(
        "--long",
        type=length,
        default=0,
        metavar="LENGTH",
        help="tokens of the long prompt; of the longest one, with room for an answer (default: just past tier 0)",
    )
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for /health, at most (default: 0)")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="of silence (default: 900)")
    parser.add_argument(
        "--metrics",
        choices=("one", "several", "none"),
        default="one",
        help="one server, whose counters must grow; several behind one URL; or not offered here (default: one)",
    )
    asked = parser.parse_args()
    server = Server(url=asked.url.rstrip("/"), key=asked.api_key or None, timeout=asked.timeout, model=asked.model)
    wait(server, asked.wait)
    ok = run(server, asked)
    print("passed" if ok else "failed")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())

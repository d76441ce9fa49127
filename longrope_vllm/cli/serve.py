"""Start an OpenAI-compatible server in which every request gets the rope of its own length.

    longrope serve MODEL [--factors FILE | --preset NAME | --tiers 32k:yarn,128k:yarn] [any option of vLLM's server]

MODEL is a checkpoint directory or a model name. With one of these three the checkpoint is served with those tiers, in
front of them its own rope if they start above its length, and stays as it is on disk; a checkpoint that has a longrope
block needs none. Documents are uploaded to /v1/files and asked about by their id. SIGTERM ends the server when its
requests are answered, at most --shutdown-timeout seconds later. Exit status 1: the engine failed, start again.
"""

import argparse
from collections.abc import Sequence

from longrope_vllm.chosen_factors import ChosenFactors, add_factor_options
from longrope_vllm.plugin.policy import POLICIES
from longrope_vllm.plugin.settings import LANES, Settings
from longrope_vllm.server import progress_limit
from longrope_vllm.server.doors.settings import DoorSettings, add_door_options, api_keys_of
from longrope_vllm.server.files.settings import ATTRIBUTE, FileSettings, add_file_options
from longrope_vllm.tier_table import ANGLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope serve``; the rest go to vLLM."""
    parser.allow_abbrev = False
    chosen = "--factors FILE | --preset NAME | --tiers LENGTH:METHOD,..."
    parser.usage = f"longrope serve MODEL [{chosen}] [any option of vLLM's server]"
    add_factor_options(parser)
    parser.add_argument(
        "--tier-policy",
        choices=POLICIES,
        help="where a request starts: the tier of its prompt (default), of prompt and max_tokens, or the one it names",
    )
    parser.add_argument(
        "--angles",
        choices=ANGLES,
        help="of rescaled tiers: exact (default), or match-hf, rounded as transformers rounds them, for comparisons",
    )
    parser.add_argument("--lanes", choices=LANES, help="off: vLLM's own order of short and long prompts")
    parser.add_argument(
        "--short-wait",
        type=float,
        metavar="SECONDS",
        help=f"that a short request may wait for steps of a long prefill (default {Settings.short_wait})",
    )
    add_file_options(parser)
    progress_limit.add_progress_option(parser)
    add_door_options(parser)
    parser.epilog = "Every other option is passed to vLLM's server, such as --port, --max-model-len, --api-key."


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Serve until a signal ends it."""
    asked, options = parser.parse_known_args(arguments)
    from longrope_vllm.server.launch import prepare, serve

    files = FileSettings.from_arguments(asked)
    limit = progress_limit.checked(asked.progress_limit)
    settings = {
        "policy": asked.tier_policy,
        "angles": asked.angles,
        "lanes": asked.lanes,
        "short_wait": asked.short_wait,
    }
    prepared, banner = prepare(ChosenFactors.from_arguments(asked), options, settings=settings)
    if files is not None:
        files.check()
    setattr(prepared, ATTRIBUTE, files)
    setattr(prepared, progress_limit.ATTRIBUTE, limit)
    doors = DoorSettings.from_arguments(asked, api_keys=api_keys_of(prepared), files=files)
    doors.install(prepared)
    print(banner)
    print(f"longrope: keys   {doors.describe()}")
    print(f"longrope: files  {'none are kept' if files is None else files.describe()}", flush=True)
    return serve(prepared)

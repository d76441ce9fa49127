"""Start vLLM's own OpenAI-compatible server (fastapi, uvicorn) with the plugin, in this process.

In: a model, optionally factors and a policy, and whatever options vLLM's ``serve`` takes. The ``vllm`` command itself
is not used: the CPU distribution has another name, with which that command does not start.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from longrope_vllm.chosen_factors import ChosenFactors
from longrope_vllm.errors import CheckpointError, UnsupportedError
from longrope_vllm.extras import require
from longrope_vllm.factors import Factors
from longrope_vllm.geometry import Config, read_config
from longrope_vllm.plugin import compat
from longrope_vllm.plugin.settings import CONFIG, server_settings
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.rope_block import portable_fields
from longrope_vllm.server import endpoint_shim
from longrope_vllm.server.memory_fit import fit_to_memory

PLUGIN = "longrope"

RENDERERS = "renderer_num_workers"
DEFAULTS = {
    "sse_keep_alive_interval": 15,
    "enable_prompt_tokens_details": True,
    "shutdown_timeout": 300,
    RENDERERS: 4,
}
"""vLLM's options that are set unless the user sets them, where this vLLM has them: a stream is never silent for longer
(seconds), ``usage`` says what came from the prefix cache, running requests have that long to finish when the server is
told to end (seconds), and so many threads make tokens of prompts: a chat need not wait for a book."""

ENGINE_FAILED = 1
"""Exit status of a server that ended because its engine died or was stopped."""
FAILURE = "longrope_failure"
"""Of vLLM's argument namespace: what happened to the engine, if the server ended because of it."""

_OF_TEXT = ("text_config", "quantization_config", "compression_config")


def prepare(
    chosen: ChosenFactors, options: Sequence[str], *, settings: Mapping[str, str | float | None] = MappingProxyType({})
) -> tuple[argparse.Namespace, str]:
    """Arguments for ``serve`` and the lines that say what will be served. ``options`` are vLLM's, MODEL among them.

    ``settings`` are fields of ``plugin.settings.Settings``, None for one that is not given.

    Raises a ``LongRopeError`` before any weight is loaded when the version, the checkpoint, the factors or the memory
    do not fit.
    """
    check_engine()
    check_plugin_visible()
    arguments = parse_engine_options(options)
    endpoint_shim.check(arguments)
    config = merged(model_config(arguments), arguments.hf_overrides or {})
    if is_multimodal(config) and not states(options, RENDERERS):
        arguments.renderer_num_workers = 1  # vLLM refuses more for some of them
    factors = chosen.for_config(config)
    given = {name: value for name, value in settings.items() if value is not None}
    if given:
        stated = arguments.additional_config.get(CONFIG, {})
        arguments.additional_config = {**arguments.additional_config, CONFIG: {**stated, **given}}
    if factors is not None:
        ours = overrides(config, factors)
        arguments.hf_overrides = merged(arguments.hf_overrides or {}, ours)
        config = merged(config, ours)
    return arguments, "\n".join([banner(arguments, config), *fit_to_memory(arguments, config)])


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    enable_endpoint()
    if endpoint_shim.is_needed():
        endpoint_shim.install()
    # CUDA cannot be used after a fork; vLLM's own command line sets the same.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    from vllm.entrypoints.cli.serve import ServeSubcommand

    ServeSubcommand.cmd(arguments)
    return ENGINE_FAILED if getattr(arguments, FAILURE, None) is not None else 0


def check_engine() -> None:
    """Raise unless a supported vLLM is installed."""
    require("vllm", "gpu")
    version = compat.vllm_version()
    if not compat.is_supported(version):
        raise UnsupportedError(compat.refusal(version))


def check_plugin_visible() -> None:
    """Raise ``UnsupportedError`` when ``VLLM_PLUGINS`` shuts this plugin out: stock vLLM would serve in its place."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        raise UnsupportedError(
            f"Expected {PLUGIN} among the plugins in VLLM_PLUGINS, found {allowed!r}: add it, or unset the variable."
        )


def enable_endpoint() -> None:
    """Name every installed plugin in ``VLLM_PLUGINS``: HTTP routes are added only by plugins named there.

    The variable filters all plugin groups, so the others have to stand in it too. Those that only add routes are left
    out: their owner has not asked for them.
    """
    if "VLLM_PLUGINS" in os.environ:
        return
    groups = (
        "vllm.general_plugins",
        "vllm.platform_plugins",
        "vllm.io_processor_plugins",
        "vllm.stat_logger_plugins",
    )
    names = {PLUGIN} | {point.name for group in groups for point in entry_points(group=group)}
    os.environ["VLLM_PLUGINS"] = ",".join(sorted(names))


def model_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the model to serve, read as vLLM will read it. Raises ``CheckpointError``."""
    model = arguments.model
    if Path(model).exists():
        read_config(model)  # one clear sentence before anybody tries
    elif model.startswith((".", "/", "~")):
        raise CheckpointError(f"Expected a checkpoint directory or a model name, found nothing at {model}.")
    from vllm.transformers_utils.config import get_config

    try:
        found = get_config(model, arguments.trust_remote_code, revision=arguments.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"Expected a model that vLLM can configure at {model}, found: {reason}") from None
    config: dict[str, Any] = found.to_dict()
    return config


def states(options: Sequence[str], name: str) -> bool:
    """Whether the command line names vLLM's option ``name``, in any of its spellings."""
    return any(option.partition("=")[0].replace("-", "_") == f"__{name}" for option in options)


def is_multimodal(config: Config) -> bool:
    """Whether ``config`` describes other parts beside a text model, such as ``vision_config``."""
    return any(name.endswith("_config") and value and name not in _OF_TEXT for name, value in config.items())


def merged(config: Config, changes: Config) -> dict[str, Any]:
    """``config`` with ``changes``; those of a nested ``text_config`` go into it and do not replace it."""
    both = {**config, **changes}
    nested = config.get("text_config"), changes.get("text_config")
    if isinstance(nested[0], dict) and isinstance(nested[1], dict):
        both["text_config"] = {**nested[0], **nested[1]}
    return both


def overrides(config: Config, factors: Factors) -> dict[str, Any]:
    """vLLM's ``hf_overrides`` that serve ``config`` with ``factors``; the checkpoint on disk stays as it is."""
    fields = portable_fields(config, factors)
    if "rope_scaling" in fields:
        fields["rope_parameters"] = fields.pop("rope_scaling")
    return {"text_config": fields} if isinstance(config.get("text_config"), dict) else fields


def parse_engine_options(options: Sequence[str]) -> argparse.Namespace:
    """vLLM's own parser over ``options``; a wrong one ends the process with its message and status 2."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="longrope")
    subcommand = ServeSubcommand()
    serving = subcommand.subparser_init(parser.add_subparsers(dest="subparser"))
    serving.set_defaults(**{name: value for name, value in DEFAULTS.items() if serving.get_default(name) is not None})
    arguments: argparse.Namespace = parser.parse_args(["serve", *options])
    if arguments.model_tag is None:
        raise UnsupportedError("Expected a model to serve, found none: longrope serve MODEL [options].")
    arguments.model = arguments.model_tag
    subcommand.validate(arguments)
    return arguments


def banner(arguments: argparse.Namespace, config: Config) -> str:
    """What is about to be served: name, address, tiers in force."""
    name = (arguments.served_model_name or [arguments.model])[0]
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert text is not None
    declared = text.get("max_position_embeddings", 0)  # a model without rope need not state one
    length = arguments.max_model_len or declared
    fitted = length < 0  # --max-model-len -1: vLLM may shorten it to the memory
    served = ServedTiers.from_config(dict(config), declared if fitted else length)
    tiers = served.describe() if served else "none: this checkpoint has no longrope block and is served unchanged"
    note = " (less if memory is short)" if fitted else ""
    lines = [
        f"longrope: model  {name}",
        f"longrope: listen http://{arguments.host or '0.0.0.0'}:{arguments.port}",
        f"longrope: tiers  {tiers}{note}",
    ]
    if served and served.last:
        lines.append(f"longrope: policy {server_settings(arguments).policy}")
    return "\n".join(lines)

"""The checkpoint that a plan is made for: a directory, or the configuration of a model on the hub."""

from contextlib import suppress
from pathlib import Path

from longrope_vllm.errors import CheckpointError
from longrope_vllm.extras import require
from longrope_vllm.geometry import Config, read_config
from longrope_vllm.weights import INDEX


def checkpoint_folder(model: str) -> Path:
    """The directory ``model``, or one in the hub's cache with ``config.json`` and the index of weights of that name.

    No weights are downloaded. Raises ``CheckpointError`` when there is neither.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointError(f"Expected a checkpoint directory or a model name such as NAME/MODEL, found {model!r}.")
    hub = require("huggingface_hub", "gpu")
    try:
        config = hub.hf_hub_download(model, "config.json")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"Expected config.json of {model} from the hub, found: {reason} Without a network, name a directory with "
            "its config.json."
        ) from None
    with suppress(OSError, ValueError):  # a model of one file has no index: it is counted from its configuration
        hub.hf_hub_download(model, INDEX)
    return Path(config).parent


def read_model(model: str) -> tuple[Path, Config]:
    """Folder and configuration of ``model``. Raises ``CheckpointError``."""
    folder = checkpoint_folder(model)
    return folder, read_config(folder)

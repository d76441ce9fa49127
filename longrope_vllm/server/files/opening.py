"""The files of a server, as it starts: from vLLM's engine client and arguments."""

from argparse import Namespace
from typing import Any

from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server.files.file_object import Serving
from longrope_vllm.server.files.service import FileService
from longrope_vllm.server.files.settings import file_settings
from longrope_vllm.server.files.store import FileStore
from longrope_vllm.server.files.text import TextReader
from longrope_vllm.server.files.tokens import TokenCounter
from longrope_vllm.server.text_tokens import TextCounter


def open_files(engine: Any, arguments: Namespace, *, keyed: bool) -> FileService | None:
    """The files that ``arguments`` ask for; None where they ask for none, and on a server that only renders.

    ``keyed``: the server asks for API keys, and each has its own files.

    Call it before the server serves. Raises a ``LongRopeError`` or ``OSError`` when the directory cannot be used.
    """
    settings = file_settings(arguments)
    if settings is None or engine is None:
        return None
    return FileService(
        settings=settings,
        store=FileStore(settings),
        reader=TextReader(settings, keyed=keyed),
        counter=_counter(engine),
        serving=_EngineServing(engine.vllm_config),
        keyed=keyed,
    )


def _counter(engine: Any) -> TokenCounter | None:
    model = engine.vllm_config.model_config
    if model.skip_tokenizer_init:
        return None
    name = f"{model.tokenizer}@{model.tokenizer_revision or 'main'}"
    return TokenCounter(name=name, texts=TextCounter(engine.renderer.get_tokenizer()))


class _EngineServing:
    """Called, tells what the engine can read: once, and again when vLLM has shortened ``max_model_len``."""

    def __init__(self, vllm_config: Any) -> None:
        self._vllm_config = vllm_config
        self._known: Serving | None = None

    def __call__(self) -> Serving:
        length = self._vllm_config.model_config.max_model_len
        if self._known is None or self._known.max_model_len != length:
            self._known = Serving(max_model_len=length, tiers=ServedTiers.from_vllm_config(self._vllm_config))
        return self._known

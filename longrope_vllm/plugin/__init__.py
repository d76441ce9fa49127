"""Everything that touches vLLM. vLLM calls ``register`` in each of its processes, by entry point.

Read in the order of ``docs/serving.md``. At the start: ``max_model_len`` and ``engine_config`` (before anything is
loaded), ``tiers`` (what is in force), ``rotary`` and ``model_loader`` (the table, and that the model took it). For each
request: ``http_fields``, ``policy`` and ``input_processor`` (where it starts), ``scheduler`` (its tier, its key, its
crossings), ``row_shift`` with ``model_runner_v1`` or ``model_runner_v2`` (which row each token reads),
``output_processor``, ``status``, ``metrics`` and ``endpoint`` (what is told about it).
"""


def register() -> None:
    """Install the plugin in this process; calling it again changes nothing.

    Models without a longrope block never reach any of it. A vLLM outside the supported range keeps working for them
    and refuses a longrope checkpoint.
    """
    from longrope_vllm.plugin import compat

    if not compat.is_supported(compat.vllm_version()):
        compat.install_refusal()
        return
    from longrope_vllm.plugin import engine_config, max_model_len, model_loader, rotary, scheduler

    max_model_len.install()
    engine_config.install()
    scheduler.install()
    rotary.install()
    model_loader.install()

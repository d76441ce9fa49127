"""Everything that touches vLLM. vLLM calls ``register`` in each of its processes, by entry point.

Read in the order a request lives: ``max_model_len`` and ``engine_config`` (before anything is loaded), ``rotary``
(the table), ``scheduler`` (which tier, when it changes), ``model_runner_v1`` / ``model_runner_v2`` (which row each
token reads), ``status`` and ``endpoint`` (which tier served a request).
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
    from longrope_vllm.plugin import engine_config, max_model_len, rotary, scheduler

    max_model_len.install()
    engine_config.install()
    scheduler.install()
    rotary.install()

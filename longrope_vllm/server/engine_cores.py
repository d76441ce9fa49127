"""Questions to the engine cores behind an API server, by the name of a method that the plugin gave them."""

from typing import Any


async def ask_engine_cores(engine: Any, method: str, *arguments: Any) -> list[Any]:
    """The answer of each engine core behind the engine client ``engine``: several with data parallelism.

    vLLM versions without a call to all of them ask the first one. Raises ``EngineDeadError`` when there is none left.
    """
    core = engine.engine_core
    if hasattr(core, "call_utility_all_async"):
        answers: list[Any] = await core.call_utility_all_async(method, *arguments)
        return answers
    return [await core.call_utility_async(method, *arguments)]

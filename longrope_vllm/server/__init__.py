"""The OpenAI-compatible server: vLLM's own, started with the plugin, in this process or as a child."""

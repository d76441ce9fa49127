"""The OpenAI-compatible server: vLLM's own, started with the plugin and this project's defaults."""

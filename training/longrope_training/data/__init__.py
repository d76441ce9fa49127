"""From text to the rows of a run: deterministic, resumable, and known before a step is spent."""

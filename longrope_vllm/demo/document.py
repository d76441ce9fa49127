"""What the demo asks: a long real text with one fact hidden in it, a question about the fact, and short questions.

The text is the language reference that Python carries in its standard library, so nothing is downloaded.
"""

from pathlib import Path
from pydoc_data.topics import topics

from longrope_vllm.extras import require

DOCUMENT_TOKENS = 12_000
_DEPTH = 0.4
"""Where in the document the fact stands."""
_FACT = "\n\nThe secret access code of the north gate is 48213. Remember it.\n\n"
ANSWER = "48213"
_QUESTION = "\n\nWhat is the secret access code of the north gate? Answer with the number only."
SHORT_QUESTIONS = (
    "What is the capital of France? Answer with one word.",
    "What is the opposite of hot? Answer with one word.",
    "How many days are in a week?",
)
"""Questions this model answers with a clear margin at every token: where two tokens are nearly equal, bfloat16 rounding
lets the answer depend on what else is in the batch, in any server."""


def reference_text() -> str:
    """About 113,000 tokens of English prose and code from Python's own documentation, in a fixed order."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def long_question(model: Path) -> str:
    """The document of ``DOCUMENT_TOKENS`` tokens by the tokenizer of ``model``, with fact and question."""
    tokenizer = require("transformers", "demo").AutoTokenizer.from_pretrained(model)
    tokens = tokenizer(reference_text(), verbose=False)["input_ids"]
    hidden_at = round(DOCUMENT_TOKENS * _DEPTH)
    before, after = tokens[:hidden_at], tokens[hidden_at:DOCUMENT_TOKENS]
    return f"{tokenizer.decode(before)}{_FACT}{tokenizer.decode(after)}{_QUESTION}"

"""RULER's two question answering tasks (arXiv 2404.06654, section 3.4): the documents with the answer, among others.

In: a question and its documents, a number of documents, a stream of chance. Out: a prompt. Strings and the order of the
draws are those of lm-eval 0.4.13. Which question a sample asks is drawn by the seed, none twice before all were asked.
"""

import random
from collections.abc import Sequence

from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler.case import Case
from longrope_vllm.evaluation.ruler.document_questions import DocumentQuestion, QuestionSet
from longrope_vllm.evaluation.ruler.facts import guilds, people
from longrope_vllm.evaluation.ruler.sizing import fit

_MAX_TOKENS = 32
_TEXT = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\nAnswer the question based on the given documents. Only give me "
    "the answer and do not output any other words.\n\nQuestion: {question} Answer:"
)
_ORDER = 42
"""The seed by which RULER shuffles the documents of every prompt; their number alone decides where the answer is."""


_TOKENS_PER_DOCUMENT = 32
"""Of a made-up document: fewer than any tokenizer needs, so that there are enough of them."""


def squad_prompt(case: Case) -> Prompt:
    """A question about one document: from ``sources.squad``, or else about made-up people."""
    return _prompt(case, case.sources.squad or people(_documents(case)))


def hotpot_prompt(case: Case) -> Prompt:
    """A question about two documents together: from ``sources.hotpot``, or else about made-up guilds."""
    return _prompt(case, case.sources.hotpot or guilds(_documents(case)))


def _documents(case: Case) -> int:
    return max(case.length // _TOKENS_PER_DOCUMENT, 64)


def _prompt(case: Case, pool: QuestionSet) -> Prompt:
    order = random.Random(f"{case.seed}/{case.task}").sample(range(len(pool.questions)), len(pool.questions))
    question = pool.questions[order[case.sample % len(order)]]

    def build(size: int) -> Prompt:
        return asked(question, size, rng=case.rng(), documents=pool.documents)

    return fit(build, case, smallest=len(question.gold))


def asked(question: DocumentQuestion, size: int, *, rng: random.Random, documents: Sequence[str]) -> Prompt:
    """A prompt with ``size`` of ``documents``, which are repeated when there are fewer."""
    shown = _chosen(question, size, rng=rng, documents=documents)
    random.Random(_ORDER).shuffle(shown)
    context = "\n\n".join(f"Document {number}:\n{document}" for number, document in enumerate(shown, start=1))
    return Prompt(
        text=_TEXT.format(context=context, question=question.text),
        expected=question.answers,
        max_tokens=_MAX_TOKENS,
        match="any",
    )


def _chosen(question: DocumentQuestion, size: int, *, rng: random.Random, documents: Sequence[str]) -> list[str]:
    if size >= len(documents):
        return ([*documents] * -(-size // len(documents)))[:size]
    missing = size - len(question.gold)
    assert missing >= 0, "the documents with the answer are always shown"
    if missing > len(question.related):
        known = {*question.gold, *question.related}
        others = [number for number in range(len(documents)) if number not in known]
        numbers = [*question.gold, *question.related, *rng.sample(others, missing - len(question.related))]
    else:
        numbers = [*question.gold, *rng.sample(question.related, missing)]
    return [documents[number] for number in numbers]

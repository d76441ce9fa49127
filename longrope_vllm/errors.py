"""The exception tree. Every message is one sentence: what was expected, what was found, where, what to do.

Anything a user can cause is a ``LongRopeError``; the command line prints it and exits with ``EXIT_CODE``.
"""

EXIT_CODE = 2


class LongRopeError(Exception):
    """Base of every error this project raises on purpose."""


class CheckpointError(LongRopeError):
    """A checkpoint directory or its ``config.json`` cannot be read or does not describe one rope."""


class FactorsError(LongRopeError):
    """Tiers of factors break a rule, or do not belong to this checkpoint."""


class MissingExtraError(LongRopeError):
    """An optional dependency is not installed."""


class UnsupportedError(LongRopeError):
    """This engine, version, model or option cannot be served exactly, so it is refused by name."""


class RequestError(LongRopeError, ValueError):
    """A request asks for what this server does not have (a ``ValueError``, as which vLLM answers HTTP 400)."""


class ServerError(LongRopeError):
    """A server did not come up, could not be reached, or refused what it was asked."""


class EvaluationError(LongRopeError):
    """A document, a task or a folder of results is not what an evaluation needs."""


class SearchError(LongRopeError):
    """Documents, a study or an option are not what a search for factors needs."""


class TrainingError(LongRopeError):
    """A recipe, its text or a folder of checkpoints is not what a training run needs."""


class PlanError(LongRopeError):
    """GPUs, a context or a model are not what a plan can be made of."""


class DemoError(LongRopeError):
    """The demonstration could not get its model."""

"""What has been measured: a table from (candidate, passage) to its loss, shared by all who work on a search.

One Optuna study for each length; one trial for each candidate, whose intermediate values are its losses by passage
(and one more for its gradients, because a trial that has ended takes nothing in).
Nothing else is state: whoever runs the search again finds here what was measured before, by whichever process, so that
an interrupted search ends as an unbroken one. Losses do not depend on who measures them, so that two who measure the
same by chance do no harm; claims keep that rare.
"""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic, time_ns
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Gradient
from longrope_search.model.scorer import Measured
from longrope_vllm.errors import SearchError

_SETTINGS = "longrope_settings"
_REQUEST = "longrope_request"
_KEY = "longrope_candidate"


class UnmeasuredError(Exception):
    """Something that is read was not measured yet."""


class Study:
    """The measurements of one length."""

    def __init__(self, storage: BaseStorage, study_id: int, worker: str) -> None:
        self._storage = storage
        self._id = study_id
        self._worker = worker
        self._trials: dict[str, list[FrozenTrial]] = {}  # of each candidate, in the order they were made
        self._claims: dict[tuple[str, int, str], float] = {}  # when this process first saw each

    @classmethod
    def join(
        cls,
        storage: BaseStorage,
        name: str,
        *,
        settings: Mapping[str, Any],
        request: Mapping[str, Any],
        worker: str,
    ) -> "Study":
        """The study ``name``, made when it is new, with the ``request`` for workers that know its storage alone.

        Raises ``SearchError`` when it was made with other ``settings``.
        """
        try:
            study_id = storage.create_new_study([StudyDirection.MINIMIZE], name)
        except DuplicatedStudyError:
            study_id = storage.get_study_id_from_name(name)
        if not _settings(storage, study_id):  # its maker was killed before it wrote them
            storage.set_study_user_attr(study_id, _REQUEST, dict(request))
            storage.set_study_user_attr(study_id, _SETTINGS, dict(settings))
        return cls.read(storage, name, settings=settings, worker=worker)

    @classmethod
    def read(cls, storage: BaseStorage, name: str, *, settings: Mapping[str, Any], worker: str = "") -> "Study":
        """The study ``name`` as it is. Raises ``UnmeasuredError`` where there is none, else as ``join``."""
        try:
            study_id = storage.get_study_id_from_name(name)
        except KeyError:
            raise UnmeasuredError(name) from None
        found = _settings(storage, study_id)
        wanted = json.loads(json.dumps(settings))
        for field in sorted({*found, *wanted}):
            if found.get(field) != wanted.get(field):
                raise SearchError(
                    f"Expected a study of the same search, found {field} {_short(found.get(field))} in the study "
                    f"{name!r} and {_short(wanted.get(field))} asked for: name another one with --study, or give the "
                    "same options."
                )
        return cls(storage, study_id, worker)

    def refresh(self) -> None:
        """Read what others have written since."""
        trials: dict[str, list[FrozenTrial]] = {}
        for trial in self._storage.get_all_trials(self._id, deepcopy=False):
            key = trial.user_attrs.get(_KEY)
            if key is None:
                continue
            trials.setdefault(key, []).append(trial)
        self._trials = trials

    def measured(self, candidate: Candidate, passage: int, *, gradient: bool = False) -> Measured | None:
        """What is known of ``candidate`` on passage ``passage``, or None."""
        for trial in self._trials.get(_key(candidate, gradient), ()):
            stated = trial.user_attrs.get(f"passage {passage}")
            if stated is not None and passage in trial.intermediate_values:
                return _measured(trial.intermediate_values[passage], stated)
        return None

    def write(self, candidate: Candidate, passage: int, measured: Measured) -> Measured:
        """Keep a measurement; it is on disk when this returns. Raises ``OSError``.

        Returns the one that is kept: where another process was earlier it is the other's, so that all go on with one.
        """
        gradient = measured.gradient is not None
        stated: dict[str, Any] = {"seconds": round(measured.seconds, 3), "worker": self._worker}
        if measured.gradient is not None:
            stated["gradient"] = {
                "log_factors": measured.gradient.log_factors.tolist(),
                "log_attention": measured.gradient.log_attention_factor,
            }
        if measured.curve:
            stated |= {"curve": list(measured.curve), "last": measured.last}
        while True:
            self.refresh()
            known = self.measured(candidate, passage, gradient=gradient)
            if known is not None:
                return known
            trial_id = self._trial_id(candidate, gradient)
            with suppress(UpdateFinishedTrialError):  # finished a moment ago: then it goes into another trial
                self._storage.set_trial_user_attr(trial_id, f"passage {passage}", stated)
                self._storage.set_trial_intermediate_value(trial_id, passage, measured.loss)

    def claim(self, candidate: Candidate, passage: int, *, gradient: bool = False) -> bool:
        """Tell the others that this process measures it now; False when another was a moment earlier."""
        trial_id = self._trial_id(candidate, gradient)
        try:
            self._storage.set_trial_user_attr(trial_id, f"claim {passage}", self._worker)
        except UpdateFinishedTrialError:  # a moment ago; the next try makes another trial, if it is still needed
            self.refresh()
            return False
        self.refresh()
        return self._holder(_key(candidate, gradient), passage) == self._worker

    def claimed_for(self, candidate: Candidate, passage: int, *, gradient: bool = False) -> float | None:
        """Seconds since this process first saw that another claims it, by its own clock; None when nobody does.

        A process of this machine that is no longer there claims nothing.
        """
        key = _key(candidate, gradient)
        holder = self._holder(key, passage)
        if holder is None or holder == self._worker or _is_dead(holder):
            return None
        return monotonic() - self._claims.setdefault((key, passage, holder), monotonic())

    def finish(self, candidate: Candidate, loss: float, *, complete: bool, gradient: bool = False) -> None:
        """Close the trial of ``candidate``, for whoever looks at the study with Optuna's tools."""
        state = TrialState.COMPLETE if complete else TrialState.PRUNED
        for trial in self._trials[_key(candidate, gradient)]:
            if not trial.state.is_finished():
                with suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_state_values(trial._trial_id, state, [loss])

    @property
    def seconds(self) -> list[float]:
        """Of every measurement that is known."""
        return [
            stated["seconds"]
            for trials in self._trials.values()
            for trial in trials
            for name, stated in trial.user_attrs.items()
            if name.startswith("passage ")
        ]

    def _trial_id(self, candidate: Candidate, gradient: bool) -> int:
        """The first trial that takes something in; a new one when there is none, as for one that was pruned before."""
        key = _key(candidate, gradient)
        for trial in self._trials.get(key, ()):
            if not trial.state.is_finished():
                return trial._trial_id
        self._storage.create_new_trial(self._id, _trial(candidate, key))
        self.refresh()
        return next(trial._trial_id for trial in self._trials[key] if not trial.state.is_finished())

    def _holder(self, key: str, passage: int) -> str | None:
        """Who claims a pass, of trials that are not finished."""
        trials = [trial for trial in self._trials.get(key, ()) if not trial.state.is_finished()]
        return trials[0].user_attrs.get(f"claim {passage}") if trials else None


def _measured(loss: float, stated: Mapping[str, Any]) -> Measured:
    slope = stated.get("gradient")
    gradient = slope and Gradient(
        log_factors=np.asarray(slope["log_factors"]), log_attention_factor=slope["log_attention"]
    )
    return Measured(
        loss=loss,
        seconds=stated["seconds"],
        gradient=gradient,
        curve=tuple(stated.get("curve", ())),
        last=stated.get("last", 0.0),
    )


def _key(candidate: Candidate, gradient: bool) -> str:
    return f"{candidate.key} gradient" if gradient else candidate.key


def _trial(candidate: Candidate, key: str) -> FrozenTrial:
    values = {f"factor_{pair:03d}": factor for pair, factor in enumerate(candidate.factors)}
    params: dict[str, Any] = {**values, "attention_factor": candidate.attention_factor}
    distributions: dict[str, Any] = {name: FloatDistribution(value, value) for name, value in params.items()}
    return create_trial(
        state=TrialState.RUNNING,
        params={**params, "start_tokens": candidate.start_tokens},
        distributions={**distributions, "start_tokens": IntDistribution(0, 1 << 20)},
        user_attrs={_KEY: key, "origin": candidate.origin},
    )


def worker_name() -> str:
    """Different for every process on every machine."""
    return f"{socket.gethostname()}:{os.getpid()}:{time_ns()}"


def _is_dead(worker: str) -> bool:
    """True for a process of this machine that has ended."""
    host, _, rest = worker.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdecimal():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def requests(storage: BaseStorage) -> list[dict[str, Any]]:
    """Those of all studies in ``storage``, the newest last."""
    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [study.user_attrs[_REQUEST] for study in studies if _REQUEST in study.user_attrs]


def _settings(storage: BaseStorage, study_id: int) -> dict[str, Any]:
    return dict(storage.get_study_user_attrs(study_id).get(_SETTINGS, {}))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]} … {text[-30:]}"

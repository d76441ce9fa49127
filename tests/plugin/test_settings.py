"""What a server is told in vLLM's ``additional_config``."""

from types import SimpleNamespace
from typing import Any

import pytest

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.settings import Settings, server_settings


def configured(additional: Any) -> SimpleNamespace:
    return SimpleNamespace(additional_config=additional)


def test_the_settings_of_a_server_are_read_from_its_additional_config() -> None:
    assert server_settings(configured({})) == server_settings(configured({"another": 1})) == Settings()
    stated = {"policy": "explicit", "angles": "match-hf", "lanes": "off", "short_wait": 1}
    assert server_settings(configured({"longrope": stated})) == Settings(
        policy="explicit", angles="match-hf", lanes="off", short_wait=1
    )


@pytest.mark.parametrize(
    "stated",
    [
        {"policy": "longest"},
        {"polcy": "prompt"},
        "prompt",
        {"policy": None},
        {"angles": "float32"},
        {"lanes": True},
        {"short_wait": 0},
        {"short_wait": "0.1"},
        {"short_wait": float("nan")},
    ],
)
def test_other_settings_are_refused(stated: Any) -> None:
    with pytest.raises(UnsupportedError, match="in additional_config"):
        server_settings(configured({"longrope": stated}))

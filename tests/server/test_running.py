"""``server.running``: what is told of a server that dies before it answers."""

from pathlib import Path

import pytest

from longrope_vllm.errors import ServerError
from longrope_vllm.server.running import running

ENGINE = "(EngineCore pid=7) ERROR 11-23 10:00:00 [core.py:1] "
SERVER = "(APIServer pid=6) "
DYING = f"""
import sys
print("{ENGINE}Traceback (most recent call last):")
for frame in range(30):
    print("{ENGINE}  File engine.py, line", frame)
print("{ENGINE}torch.OutOfMemoryError: CUDA out of memory")
print("{SERVER}Traceback (most recent call last):")
for frame in range(30):
    print("{SERVER}  File server.py, line", frame)
print("{SERVER}RuntimeError: Engine core initialization failed. See root cause above.")
sys.exit(1)
"""


def start(module: str, folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    """The message of the error."""
    (folder / f"{module}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with pytest.raises(ServerError) as caught, running(module, (), environment={}, log=folder / "log"):
        pass
    return str(caught.value)


def test_a_server_that_dies_is_told_with_the_failure_of_its_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = start("dying_server", tmp_path, monkeypatch, DYING)
    assert f"exit code 1: see {tmp_path / 'log'}" in message
    assert f"{ENGINE}  File engine.py, line 29\n{ENGINE}torch.OutOfMemoryError: CUDA out of memory\n…\n" in message
    assert message.endswith("RuntimeError: Engine core initialization failed. See root cause above.")
    assert len(message.splitlines()) < 40


def test_a_short_log_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = start("refusing_server", tmp_path, monkeypatch, "raise ValueError('no model')")
    assert "Traceback (most recent call last):" in message
    assert message.endswith("ValueError: no model")
    assert "…" not in message

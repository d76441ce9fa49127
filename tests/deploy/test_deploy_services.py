"""compose and systemd: what of them can be checked without containers and without being the init process."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from deployed_services import COMPOSE, UNITS, VARIABLE, command_of_unit, composed, unit, variables
from manifests import DEPLOY, ROOT, checked, manifests, server_options, servers


def seconds(text: str) -> int:
    """``300s`` as a number."""
    return int(text.removesuffix("s"))


def test_every_variable_of_compose_is_in_the_example() -> None:
    used = {found[0] for path in COMPOSE.glob("*.yaml") for found in VARIABLE.findall(path.read_text())}
    assert used - variables().keys() == {"LONGROPE_LISTEN"}  # which has a default
    assert variables().keys() - used == {"COMPOSE_FILE"}  # which compose itself reads


def test_compose_and_systemd_serve_what_the_overlay_of_one_gpu_serves() -> None:
    planned = yaml.safe_load((DEPLOY / "overlays" / "single-gpu" / "plan.yaml").read_text())
    arguments = planned["args"]
    assert shlex.split(composed()["longrope"]["command"])[2 : 2 + len(arguments)] == arguments
    assert command_of_unit()[3 : 3 + len(arguments)] == arguments
    environment = {name: str(composed()["longrope"]["environment"][name]) for name in planned["env"]}
    assert environment == planned["env"]


def test_a_drain_is_never_cut_off_by_compose_or_systemd() -> None:
    (server,) = servers(manifests("single-gpu"))
    drained = int(server_options(server)["--shutdown-timeout"])
    assert all(seconds(service["stop_grace_period"]) > drained for service in composed().values())
    assert composed()["nginx"]["stop_signal"] == "SIGQUIT"
    assert seconds(unit()["TimeoutStopSec"][0]) > drained
    assert unit()["KillMode"] == ["mixed"]


def test_a_server_that_ends_starts_again() -> None:
    assert {service["restart"] for service in composed().values()} == {"always"}
    assert unit()["Restart"] == ["always"]


def test_compose_publishes_the_proxy_only_and_keeps_rights_small() -> None:
    services = composed()
    assert "ports" not in services["longrope"]
    assert services["longrope"]["user"] == "2000:0"
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
    assert '("ready", "progress")' in services["longrope"]["healthcheck"]["test"][-1]
    # A folder: `longrope keys` writes another file of that name, which a mount of the file alone would not show.
    (keys,) = [word for word in shlex.split(services["longrope"]["command"]) if word.startswith("--keys=")]
    assert "./keys:/etc/longrope/keys:ro" in services["longrope"]["volumes"]
    assert keys == "--keys=/etc/longrope/keys/keys.toml"


def test_composes_proxy_is_the_documented_one() -> None:
    configured = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["configs"]["nginx"]["file"]
    assert (COMPOSE / configured).resolve() == ROOT / "docs" / "nginx.conf"
    (change,) = re.findall(r"sed (\S+) /etc", composed()["nginx"]["command"][-1])
    _, before, after, _ = change.split("/")
    assert (COMPOSE / configured).read_text().count(f"server {before};") == 1
    assert after.partition(":")[0] in composed()


def installed(folder: Path) -> list[Path]:
    """The units in ``folder``, their programs replaced by one that is there: systemd asks for them."""
    shutil.copytree(UNITS, folder, dirs_exist_ok=True)
    for path in folder.glob("*.service"):
        path.write_text(
            re.sub(
                r"(?<==)/(opt/longrope/bin/longrope|usr/bin/curl|usr/bin/systemctl)", sys.executable, path.read_text()
            )
        )
    return sorted([*folder.glob("*.service"), *folder.glob("*.timer")])


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    checked("systemd-analyze", "verify", "--man=no", *installed(tmp_path))


def test_systemd_finds_the_server_well_shut_in(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    installed(tmp_path)
    checked("systemd-analyze", "security", "--offline=true", "--threshold=45", tmp_path / "longrope.service")

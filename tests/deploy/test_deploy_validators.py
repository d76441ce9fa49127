"""Everything in deploy/ before the tools that its users run, or that the cluster's own definitions were made into."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from manifests import DEPLOY, OVERLAYS, ROOT, checked, manifests, objects, of_kind, pods, template, the, tool

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
HERE = Path(__file__).parent
CUSTOM = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")
GROUP = "leaderworkerset.x-k8s.io/v1"
PLENTY = (
    *(
        "--set",
        f"revision={'a' * 40}",
        "--set",
        "keys.secret=k",
        "--set",
        "files.enabled=false",
        "--set",
        "nginx.enabled=true",
    ),
    *("--set", "autoscaling.enabled=true,autoscaling.prometheus=http://p", "--set", "alerts.enabled=true"),
    *("--set", "serviceMonitor.enabled=true,serviceMonitor.keySecret.name=k", "--set", "dashboard.enabled=true"),
    *(
        "--set",
        "tokenSecret.name=t,smoke.keySecret.name=k,priorityClassName=p,runtimeClassName=nvidia",
    ),
    *(
        "--set",
        "image.registry=registry.example,image.pullSecrets={a},nodeSelector.a=b,extraEnv[0].name=A,extraEnv[0].value=b",
    ),
)
"""Options that use every template and nearly every value."""


def validate(found: dict[str, list[Any]], folder: Path) -> None:
    """Each object by the definition of its kind, unknown fields and unknown kinds being faults."""
    plain = {name: [*_plain(among), *_pods_of_groups(among)] for name, among in found.items()}
    told = checked(tool("kubernetes-validate"), "--strict", *_dumped(plain, folder / "plain"))
    assert told.count(" passed for resource ") == sum(map(len, plain.values())), (
        told
    )  # an unknown kind is but a warning
    custom = {name: [one for one in among if one["apiVersion"] in CUSTOM] for name, among in found.items()}
    if files := _dumped(custom, folder / "custom"):
        checked(Path(tool("kubernetes-validate")).with_name("python"), HERE / "custom_kinds.py", *files)
    for group in (one for among in found.values() for one in of_kind("LeaderWorkerSet", among)):
        jsonschema.validate(group, json.loads((HERE / "leaderworkerset.schema.json").read_text()))


def _plain(found: list[Any]) -> list[Any]:
    return [one for one in found if one["apiVersion"] not in (*CUSTOM, GROUP)]


def _pods_of_groups(found: list[Any]) -> list[Any]:
    inner = [pod for one in of_kind("LeaderWorkerSet", found) for pod in pods([one])]
    named = [{**pod["metadata"], "name": f"pod-{number}"} for number, pod in enumerate(inner)]
    kind = {"apiVersion": "v1", "kind": "Pod"}
    return [{**kind, **pod, "metadata": metadata} for pod, metadata in zip(inner, named, strict=True)]


def _dumped(found: dict[str, list[Any]], folder: Path) -> list[Path]:
    """One file of YAML documents in ``folder`` for each name that has any."""
    folder.mkdir()
    paths = {folder / f"{name}.yaml": among for name, among in found.items() if among}
    for path, among in paths.items():
        path.write_text(yaml.safe_dump_all(among))
    return list(paths)


def test_every_object_is_valid(tmp_path: Path) -> None:
    everything = template(*PLENTY)
    assert everything.returncode == 0, everything.stderr
    found = {
        **{overlay: manifests(overlay) for overlay in OVERLAYS},
        "everything": objects(everything.stdout),
        "jobs": objects(checked(tool("kubectl"), "kustomize", DEPLOY / "jobs")),
    }
    kinds = {one["kind"] for among in found.values() for one in among}
    assert {"Pod", "Job", "LeaderWorkerSet", "ScaledObject", "PrometheusRule", "ServiceMonitor"} < kinds
    validate(found, tmp_path)


@pytest.mark.parametrize("fault", [("kind", "Deploymint"), ("spec", {"replicsa": 1})])
def test_a_fault_is_found(fault: tuple[str, Any], tmp_path: Path) -> None:
    broken = [{**one, fault[0]: fault[1]} if one["kind"] == "Deployment" else one for one in manifests("single-gpu")]
    with pytest.raises(AssertionError):
        validate({"broken": broken}, tmp_path)


def test_an_unknown_field_of_a_custom_kind_is_found(tmp_path: Path) -> None:
    broken = [
        {**one, "spec": {**one["spec"], "selectro": {}}} for one in of_kind("ServiceMonitor", manifests("single-gpu"))
    ]
    with pytest.raises(AssertionError, match="selectro"):
        validate({"broken": broken}, tmp_path)


def test_helm_finds_no_fault_in_the_chart() -> None:
    told = checked(tool("helm"), "lint", "--strict", DEPLOY / "chart", *PLENTY)
    assert "0 chart(s) failed" in told


@every_overlay
def test_kustomize_builds_an_overlay_with_images_by_tag_and_digest(overlay: str) -> None:
    built = objects(checked(tool("kubectl"), "kustomize", DEPLOY / "overlays" / overlay))
    assert {one["metadata"]["name"] for one in manifests(overlay)} <= {one["metadata"]["name"] for one in built}
    (space,) = of_kind("Namespace", built)
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    images = [container["image"] for pod in pods(built) for container in pod["spec"]["containers"]]
    assert images
    for image in images:
        name, _, digest = image.partition("@")
        assert name.startswith("registry.example/")
        assert ":" in name
        assert digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Expected revision"),
        (("revision=main",), "revision"),
        (("modle=a",), "modle"),
        (("gracePeriod=300",), "Expected gracePeriod above"),
        (("resources.gpus=4",), "Expected resources.gpus x pipeline.nodes"),
        (("progressDeadlineSeconds=600",), "Expected progressDeadlineSeconds above"),
        (("progressDeadlineSeconds=2270",), "Expected progressDeadlineSeconds above gracePeriod"),
        (("probes.startup.failureThreshold=193",), "Expected VLLM_ENGINE_READY_TIMEOUT_S of at least the 1930 s"),
        (("shutdownTimeout=200",), "Expected shutdownTimeout as in args, 300, found 200"),
        (("factors.configMap=f",), "Expected either factors.configMap or --tiers in args, found both"),
        (("model=/models/m",), "Expected modelVolume"),
        ((f"revision={'a' * 40}",), "Expected keys.secret"),
        ((f"revision={'a' * 40}", "keys.secret=k", "replicas=2"), "Expected files.enabled=false"),
        ((f"revision={'a' * 40}", "keys.secret=k", "serviceMonitor.enabled=true"), "Expected serviceMonitor.keySecret"),
        (
            (f"revision={'a' * 40}", "keys.secret=k", "nginx.enabled=true", "nginx.serviceType=LoadBalancer"),
            "Expected networkPolicy.clients for nginx.serviceType=LoadBalancer",
        ),
        (("image.digest=sha256:12",), "digest"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_sentence(options: tuple[str, ...], sentence: str) -> None:
    done = template(*(word for option in options for word in ("--set", option)))
    assert done.returncode != 0
    assert sentence in done.stderr


def test_a_private_registry_and_a_way_out_of_ones_own_are_asked_for() -> None:
    way = "networkPolicy.egress[0].to[0].ipBlock.cidr=10.1.0.0/16"
    found = objects(template(*PLENTY, "--set", f"nginx.image.pullSecrets={{b}},{way}").stdout)
    proxy = the("Deployment", found, "longrope-proxy")["spec"]["template"]["spec"]
    assert proxy["imagePullSecrets"] == [{"name": "b"}]
    assert {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]} in the("NetworkPolicy", found)["spec"]["egress"]


def test_yaml_files_have_one_style() -> None:
    checked(tool("yamllint"), "--strict", "deploy", ".github", "tests/deploy")


def test_compose_files_follow_the_specification() -> None:
    files = sorted((DEPLOY / "compose").glob("*.yaml"))
    assert files
    checked(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *files)


def test_the_schema_of_the_values_is_a_schema() -> None:
    checked(tool("check-jsonschema"), "--check-metaschema", DEPLOY / "chart" / "values.schema.json")


def test_shell_scripts_have_no_fault_that_shellcheck_knows() -> None:
    scripts = [path for path in _tracked() if _is_shell(path)]
    assert scripts
    checked(tool("shellcheck"), *scripts)


def test_workflows_have_no_hole_that_zizmor_knows() -> None:
    checked(tool("zizmor"), "--offline", "--quiet", ROOT / ".github" / "workflows")


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return [path for path in (ROOT / name for name in listed.splitlines()) if path.is_file()]


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80)
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith((b"bash", b"/sh")))

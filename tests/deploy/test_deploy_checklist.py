"""What an operator of GPU nodes expects, asserted on the manifests of every overlay."""

import re
import socket
import subprocess
import sys
from typing import Any

import pytest

from manifests import OVERLAYS, container, manifests, of_kind, pods, server_options, servers, the, values

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def seconds(probe: Any) -> int:
    """For how long a probe may fail."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def leader(overlay: str) -> Any:
    """The pod template that answers HTTP."""
    return servers(manifests(overlay))[0]


@every_overlay
def test_the_gpus_of_all_pods_of_a_server_are_its_tensor_times_pipeline_ranks(overlay: str) -> None:
    planned = values(overlay)
    found = manifests(overlay)
    size = sum(group["spec"]["leaderWorkerTemplate"]["size"] for group in of_kind("LeaderWorkerSet", found)) or 1
    limits = [container(pod)["resources"]["limits"].get("nvidia.com/gpu", 0) for pod in servers(found)]
    assert len(set(limits)) == 1
    told = server_options(leader(overlay))
    ranks = int(told.get("--tensor-parallel-size", 1)) * int(told.get("--pipeline-parallel-size", 1))
    assert ranks == planned["pipeline"]["tensor"] * planned["pipeline"]["stages"]
    assert limits[0] * size == (0 if overlay == "cpu-smoke" else ranks)


@every_overlay
def test_shared_memory_is_a_volume_with_a_limit_within_the_memory(overlay: str) -> None:
    for pod in servers(manifests(overlay)):
        (mounted,) = [mount["name"] for mount in container(pod)["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == mounted]
        assert volume["emptyDir"]["medium"] == "Memory"
        shared, memory = volume["emptyDir"]["sizeLimit"], container(pod)["resources"]["limits"]["memory"]
        assert int(shared.removesuffix("Gi")) < int(memory.removesuffix("Gi"))


@every_overlay
def test_our_command_is_the_first_process_without_a_shell(overlay: str) -> None:
    for pod in servers(manifests(overlay)):
        assert container(pod)["command"] == ["longrope", "serve"]
        assert all(isinstance(word, str) for word in container(pod)["args"])


@every_overlay
def test_the_model_is_a_revision_of_the_hub_or_lies_on_a_volume(overlay: str) -> None:
    for pod in servers(manifests(overlay)):
        model = container(pod)["args"][0]
        environment = {variable["name"]: variable.get("value") for variable in container(pod)["env"]}
        if model.startswith("/"):
            assert environment["HF_HUB_OFFLINE"] == "1"
            assert any(model.startswith(mount["mountPath"] + "/") for mount in container(pod)["volumeMounts"])
        else:
            assert re.fullmatch(r"[0-9a-f]{40}", server_options(pod)["--revision"])


@every_overlay
def test_no_secret_stands_in_a_manifest(overlay: str) -> None:
    found = manifests(overlay)
    assert not of_kind("Secret", found)
    for pod in servers(found):
        assert "--api-key" not in server_options(pod)
        for variable in container(pod)["env"]:
            assert "KEY" not in variable["name"]
            assert "TOKEN" not in variable["name"] or variable["name"] == "HF_TOKEN_PATH"  # of a file, not the token
    if overlay != "cpu-smoke":
        (keys,) = [volume for volume in leader(overlay)["spec"]["volumes"] if volume["name"] == "keys"]
        assert keys["secret"]["defaultMode"] & 0o022 == 0  # a file of keys that others may write is refused
        # A directory, not a subPath: a changed Secret reaches the server while it runs.
        assert not any("subPath" in mount for mount in container(leader(overlay))["volumeMounts"])


@every_overlay
def test_compiled_code_lies_in_a_volume_of_the_pod_alone(overlay: str) -> None:
    for pod in servers(manifests(overlay)):
        (cache,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "cache"]
        assert "emptyDir" in cache
        environment = {variable["name"]: variable.get("value", "") for variable in container(pod)["env"]}
        for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HOME"):
            assert f"{environment[name]}/".startswith("/cache/")


@every_overlay
def test_a_start_may_take_half_an_hour_and_everybody_waits_for_it(overlay: str) -> None:
    server = container(leader(overlay))
    assert 1800 <= seconds(server["startupProbe"]) <= 3600
    assert server["startupProbe"]["httpGet"]["path"] == "/health"
    (ready,) = [variable for variable in server["env"] if variable["name"] == "VLLM_ENGINE_READY_TIMEOUT_S"]
    assert int(ready["value"]) >= seconds(server["startupProbe"])
    for deployment in of_kind("Deployment", manifests(overlay)):
        if deployment["metadata"]["name"] == "longrope":
            drained = leader(overlay)["spec"]["terminationGracePeriodSeconds"]  # on whose GPUs the new one waits
            assert deployment["spec"]["progressDeadlineSeconds"] > drained + seconds(server["startupProbe"])


@every_overlay
def test_a_server_may_stall_for_five_minutes_before_it_is_killed_by_its_canary(overlay: str) -> None:
    probe = container(leader(overlay))["livenessProbe"]
    assert seconds(probe) >= 300
    assert probe["httpGet"]["path"] == "/health/progress"


@every_overlay
def test_readiness_is_what_falls_at_a_drain(overlay: str) -> None:
    assert container(leader(overlay))["readinessProbe"]["httpGet"]["path"] == "/health/ready"


@every_overlay
def test_a_drain_is_never_cut_off(overlay: str) -> None:
    for pod in servers(manifests(overlay)):
        drained = int(server_options(pod)["--shutdown-timeout"])
        if "--headless" not in server_options(pod):
            assert container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"] >= 15
        assert pod["spec"]["terminationGracePeriodSeconds"] > 15 + drained


def test_a_worker_stays_until_its_leader_has_drained_and_no_longer() -> None:
    """The hook itself, beside a leader that listens, and then does not."""
    _, worker = servers(manifests("multi-node"))
    (python, option, code) = container(worker)["lifecycle"]["preStop"]["exec"]["command"]
    assert (python, option) == ("python3", "-c")
    longest = int(re.findall(r"monotonic\(\) \+ (\d+)", code)[0])
    assert 15 + int(server_options(worker)["--shutdown-timeout"]) <= longest
    assert longest < worker["spec"]["terminationGracePeriodSeconds"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = code.replace("8000", str(listening.getsockname()[1]))
        assert here != code
        environment = {"LWS_LEADER_ADDRESS": "127.0.0.1"}
        waiting = subprocess.Popen([sys.executable, option, here], env=environment)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(5)
    assert waiting.wait(10) == 0


@every_overlay
def test_updates_need_no_second_set_of_gpus(overlay: str) -> None:
    found = manifests(overlay)
    for deployment in of_kind("Deployment", found):
        if deployment["metadata"]["name"] == "longrope":
            assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    for group in of_kind("LeaderWorkerSet", found):
        assert group["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]["maxSurge"] == 0
    budget = the("PodDisruptionBudget", found)["spec"]
    assert budget["maxUnavailable"] == 1
    guarded = budget["selector"]["matchLabels"].items()
    assert all(guarded <= pod["metadata"]["labels"].items() for pod in servers(found))


@every_overlay
def test_what_ends_starts_again_whatever_its_exit_code(overlay: str) -> None:
    assert {pod["spec"]["restartPolicy"] for pod in servers(manifests(overlay))} == {"Always"}


@every_overlay
def test_no_pod_has_rights_that_it_does_not_need(overlay: str) -> None:
    found = pods(manifests(overlay))
    assert found
    for pod in found:
        spec, inner = pod["spec"], container(pod)["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not any(spec.get(name) for name in ("hostIPC", "hostNetwork", "hostPID"))
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["privileged"] is False
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert "readOnlyRootFilesystem" in inner
    for pod in servers(manifests(overlay)):
        assert (pod["spec"]["securityContext"]["runAsUser"], pod["spec"]["securityContext"]["runAsGroup"]) == (2000, 0)


@every_overlay
def test_only_the_api_port_is_reached_but_inside_of_a_group(overlay: str) -> None:
    found = manifests(overlay)
    policy = the("NetworkPolicy", found)["spec"]
    first, *rest = policy["ingress"]
    assert [port["port"] for port in first["ports"]] == [container(leader(overlay))["ports"][0]["containerPort"]]
    assert len(rest) == (1 if overlay == "multi-node" else 0)
    group = policy["podSelector"]["matchLabels"]
    for rule in rest:
        assert rule["from"] == [{"podSelector": {"matchLabels": group}}]
    for pod in servers(found):
        assert group.items() <= pod["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]


@every_overlay
def test_the_way_out_leads_to_the_hub_at_most_and_never_to_the_metadata_of_the_cloud(overlay: str) -> None:
    blocks = [
        peer["ipBlock"]
        for rule in the("NetworkPolicy", manifests(overlay))["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert bool(blocks) == (overlay == "single-gpu")  # the others have their models on a volume
    inside = {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}
    for block in blocks:
        assert block["cidr"] != "0.0.0.0/0" or set(block["except"]) == inside
        assert block["cidr"] in ("0.0.0.0/0", "2000::/3")  # global addresses: fd00:ec2::254 is none


def test_an_air_gapped_server_has_no_way_out() -> None:
    assert the("NetworkPolicy", manifests("air-gapped"))["spec"]["egress"] == []


def test_behind_the_proxy_nobody_else_reaches_the_server() -> None:
    found = manifests("air-gapped")
    allowed = the("NetworkPolicy", found)["spec"]["ingress"][0]["from"]
    assert {"podSelector": {}} not in allowed
    text = the("ConfigMap", found, "longrope-proxy")["data"]["nginx.conf"]
    assert "server longrope.longrope.svc:8000;" in text
    assert f"proxy_read_timeout {values('air-gapped')['proxy']['readTimeout']};" in text
    grace = the("Deployment", found, "longrope-proxy")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > 15 + int(values("air-gapped")["proxy"]["readTimeout"].removesuffix("s"))
    for directive in ("proxy_buffering off;", "client_max_body_size 520m;", "return 404;"):
        assert directive in text


@every_overlay
def test_a_proxy_waits_longer_than_a_client(overlay: str) -> None:
    told = values(overlay)
    assert int(told["proxy"]["readTimeout"].removesuffix("s")) > told["client"]["timeout"]


def test_servers_are_scaled_by_the_prompt_tokens_that_wait() -> None:
    found = manifests("air-gapped")
    scaled = the("ScaledObject", found)["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["query"].startswith("sum(longrope_queued_prompt_tokens{")
    assert int(trigger["metadata"]["threshold"]) == values("air-gapped")["keda"]["queuedPromptTokens"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"  # no metric is not an empty queue
    assert scaled["minReplicaCount"] >= 1
    down = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= int(server_options(leader("air-gapped"))["--shutdown-timeout"])
    assert "replicas" not in the("Deployment", found)["spec"]  # or each upgrade would undo the scaling


def test_a_server_of_several_nodes_is_one_group_with_one_address() -> None:
    found = manifests("multi-node")
    set_of_groups = the("LeaderWorkerSet", found, "longrope-group")
    # The controller makes a headless Service of that name, and ours would be in its place.
    assert set_of_groups["metadata"]["name"] not in [one["metadata"]["name"] for one in of_kind("Service", found)]
    group = set_of_groups["spec"]["leaderWorkerTemplate"]
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    first, second = servers(found)
    shared = {name: value for name, value in server_options(first).items() if name in server_options(second)}
    assert shared["--nnodes"] == str(group["size"])
    assert shared["--node-rank"] == "$(LWS_WORKER_INDEX)"
    assert shared["--master-addr"] == "$(LWS_LEADER_ADDRESS)"
    assert "--headless" in server_options(second)
    assert "--headless" not in server_options(first)
    selector = the("Service", found)["spec"]["selector"]
    assert selector.items() <= first["metadata"]["labels"].items()
    assert not selector.items() <= second["metadata"]["labels"].items()


@every_overlay
def test_what_is_selected_is_there(overlay: str) -> None:
    found = manifests(overlay)
    labels = [pod["metadata"]["labels"].items() for pod in pods(found)]
    selectors = [service["spec"]["selector"] for service in of_kind("Service", found)]
    for selector in selectors:
        assert sum(selector.items() <= known for known in labels) == 1
    for budget in of_kind("PodDisruptionBudget", found):
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= known for known in labels)
    for monitor in of_kind("ServiceMonitor", found):
        selected = monitor["spec"]["selector"]["matchLabels"].items()
        assert sum(selected <= service["metadata"]["labels"].items() for service in of_kind("Service", found)) == 1
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in [port["name"] for port in the("Service", found)["spec"]["ports"]]

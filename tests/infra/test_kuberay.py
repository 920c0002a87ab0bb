"""The KubeRay manifests: valid offline, scaling from none, hardened, with the very files of jobs/configs."""

from typing import Any

import jsonschema
import pytest
from ray import __version__ as ray_version
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.infra.built import OVERLAYS, ROOT, of_kind, overlay, pods
from tests.infra.kuberay_schema import schema_of

KUBERNETES = "1.34"
WORKLOADS = ("RayCluster", "RayJob", "Job")


def workloads(name: str) -> list[dict[str, Any]]:
    return [item for item in overlay(name) if item["kind"] in WORKLOADS]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_follows_its_schema(name: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="it is in the dev extras")
    seen = []
    for item in overlay(name):
        seen.append(item["kind"])
        if item["apiVersion"] == "ray.io/v1":
            jsonschema.validate(item, schema_of(item["kind"]))
        else:
            kubernetes.validate(item, KUBERNETES, strict=True)
        for template in pods(item).values() if item["kind"] in WORKLOADS else ():
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            kubernetes.validate(pod, KUBERNETES, strict=True)
    assert sorted(seen) == sorted(
        [*("Namespace", "ServiceAccount", "NetworkPolicy", "ConfigMap", "RayCluster"), *["RayJob"] * 3, *["Job"] * 2]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"headGroupSpec": {"template": {}, "rayStartParams": {"num-cpus": 0}}},
        {"headGroupSpec": {"template": {}}, "workerGroupSpec": []},
        {"headGroupSpec": {"template": {}}, "authOptions": {"mode": "tokens"}},
    ],
)
def test_the_schema_refuses_mistakes(wrong: dict[str, Any]) -> None:
    item = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}, "spec": wrong}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(item, schema_of("RayCluster"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_rays_own_autoscaler_reads_groups_that_scale_from_none(name: str) -> None:
    cluster = of_kind(name, "RayCluster")["prichexy"]
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    found = {group: (facts["min_workers"], facts["max_workers"], facts["resources"]) for group, facts in types.items()}
    gib = 1 << 30
    expected = {
        "headgroup": (0, 0, {"CPU": 0, "memory": 8 * gib}),
        "decode": (0, 8, {"CPU": 4, "memory": 16 * gib}),
        "gpu": (0, 4, {"CPU": 8, "GPU": 1, "memory": 32 * gib}),
    }
    if name == "cpu":
        del expected["gpu"]
    assert found == expected
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert cluster["spec"]["rayVersion"] == ray_version


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_job_brings_up_the_cluster_of_its_overlay(name: str) -> None:
    cluster = {key: value for key, value in of_kind(name, "RayCluster")["prichexy"]["spec"].items() if key != "suspend"}
    jobs = of_kind(name, "RayJob")
    assert set(jobs) == {"train", "audit", "anonymize"}
    for job in jobs.values():
        assert job["spec"]["rayClusterSpec"] == cluster
        assert job["spec"]["shutdownAfterJobFinishes"] is True
        assert job["spec"]["backoffLimit"] >= 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_starts_until_somebody_says_so(name: str) -> None:
    assert all(item["spec"]["suspend"] is True for item in workloads(name))


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_a_job_waits_for_fits_its_cluster(name: str) -> None:
    for job in of_kind(name, "RayJob").values():
        words = dict(word.split("=") for word in job["spec"]["entrypoint"].split() if "=" in word)
        groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        requests = [group["template"]["spec"]["containers"][0]["resources"] for group in groups]
        most = [group["maxReplicas"] for group in groups]
        cpus = sum(int(each["requests"]["cpu"]) * count for each, count in zip(requests, most, strict=True))
        gpus = sum(
            int(each["limits"].get("nvidia.com/gpu", 0)) * count for each, count in zip(requests, most, strict=True)
        )
        assert 2 <= int(words["ray.wait_cpus"]) <= cpus
        assert int(words.get("ray.wait_gpus", 0)) == min(1, gpus)


@pytest.mark.parametrize("name", OVERLAYS)
def test_containers_are_hardened_bounded_and_find_their_files(name: str) -> None:
    for item in workloads(name):
        for template in pods(item).values():
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == 1000
            volumes = {volume["name"] for volume in pod.get("volumes", ())}
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert "memory" in container["resources"]["limits"]
                assert {mount["name"] for mount in container.get("volumeMounts", ())} == volumes


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_the_head_may_talk_to_kubernetes(name: str) -> None:
    """Its autoscaler has to; nothing that decodes radiographs or holds a secret needs the service account's token."""
    for item in workloads(name):
        mounted = {role: pod["spec"].get("automountServiceAccountToken", True) for role, pod in pods(item).items()}
        assert [role for role, token in mounted.items() if token] == [role for role in mounted if role == "head"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_autoscaler_shares_the_heads_session(name: str) -> None:
    """KubeRay gives both a volume at /tmp/ray, unless there is one: ours must reach the autoscaler too."""
    spec = of_kind(name, "RayCluster")["prichexy"]["spec"]
    (mount,) = spec["autoscalerOptions"]["volumeMounts"]
    assert mount["mountPath"] == "/tmp/ray"
    assert mount in pods(of_kind(name, "RayCluster")["prichexy"])["head"]["spec"]["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_secrets_are_mounted_files_by_reference_closed_to_others(name: str) -> None:
    assert of_kind(name, "Secret") == {}
    for item in workloads(name):
        for role, template in pods(item).items():
            if role == "submitter":
                continue
            (secrets,) = [volume for volume in template["spec"]["volumes"] if volume["name"] == "secrets"]
            assert secrets["projected"]["defaultMode"] & 0o007 == 0
            assert secrets["projected"]["sources"] == [
                {"secret": {"name": "prichexy-key"}},
                {"secret": {"name": "prichexy-s3", "optional": True}},
            ]
            (container,) = template["spec"]["containers"]
            assert {"name": "secrets", "mountPath": "/run/secrets", "readOnly": True} in container["volumeMounts"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_mounted_configurations_are_those_of_jobs_configs(name: str) -> None:
    (mounted,) = of_kind(name, "ConfigMap").values()
    assert mounted["metadata"]["name"] == "prichexy-configs"
    assert set(mounted["data"]) == {
        *("anonymize.yaml", "audit.yaml", "promote.yaml", "publish.yaml", "train-chestxray14.yaml")
    }
    for file, content in mounted["data"].items():
        assert content == (ROOT / "jobs" / "configs" / file).read_text()


def test_spot_takes_workers_only() -> None:
    pod = pods(of_kind("spot", "RayJob")["anonymize"])
    kind = {role: pod[role]["spec"].get("nodeSelector", {}).get("karpenter.sh/capacity-type") for role in pod}
    assert kind == {"head": "on-demand", "decode": "spot", "gpu": "spot", "submitter": None}
    tolerated = {role: {each["key"] for each in pod[role]["spec"].get("tolerations", ())} for role in pod}
    assert tolerated == {
        "head": set(),
        "decode": {"karpenter.sh/capacity-type"},
        "gpu": {"nvidia.com/gpu", "karpenter.sh/capacity-type"},
        "submitter": set(),
    }
    for role in ("decode", "gpu"):
        assert pod[role]["spec"]["terminationGracePeriodSeconds"] >= 30

"""The manifests of every environment: valid for every Kubernetes that is cared for, and right where schemas cannot see it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from llm_engineering.settings import RENAMED_VARIABLES, list_variables
from tests.architecture.test_tasks import TASKS
from tools.kubernetes import list_containers, render

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="needs the group infra: ./poe setup --with infra"
)

ENVIRONMENTS = ("dev", "staging", "production")
VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
WITHOUT_SCHEMA = {"ExternalSecret", "ServiceMonitor"}
"""Of operators; their few fields are looked at below."""
BY_HAND = {"dev": {"twin"}}
"""Secrets that a person makes, as the overlay says."""

Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifests(environment: str) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(render(environment, "registry.test", "abc")) if one]


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] in kinds}


def pod_template(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    template: Manifest = spec.get("jobTemplate", {}).get("spec", spec)["template"]
    return template


def workloads(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(name, pod template) of everything that runs."""
    for name, manifest in of_kind(manifests, "Deployment", "CronJob").items():
        yield name, pod_template(manifest)


def matching(manifests: list[Manifest], selector: dict[str, str]) -> list[Manifest]:
    """Pod templates that a selector selects."""
    return [
        pod
        for _, pod in workloads(manifests)
        if selector and selector.items() <= pod["metadata"]["labels"].items()
    ]


def port_names(pods: list[Manifest]) -> set[str]:
    return {
        port["name"] for pod in pods for one in pod["spec"]["containers"] for port in one.get("ports", [])
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_found(manifests: list[Manifest]) -> None:
    (first, *_) = of_kind(manifests, "Deployment").values()
    broken = {**first, "spec": {**first["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_all_that_is_promised_is_there(environment: str, manifests: list[Manifest]) -> None:
    kinds = {one["kind"] for one in manifests}
    promised = {"Namespace", "ConfigMap", "Deployment", "Service", "Ingress", "NetworkPolicy", "CronJob"}
    promised |= {"ServiceAccount", "Role", "RoleBinding"}
    if environment != "dev":
        promised |= {"ExternalSecret", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceMonitor"}
    assert promised <= kinds
    assert set(of_kind(manifests, "Deployment")) == {"service", "llm-server", "page"}


def test_everything_is_in_the_environments_namespace(environment: str, manifests: list[Manifest]) -> None:
    assert set(of_kind(manifests, "Namespace")) == {f"twin-{environment}"}
    namespaced = [one for one in manifests if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in namespaced} == {f"twin-{environment}"}


def test_selectors_select(manifests: list[Manifest]) -> None:
    for name, deployment in of_kind(manifests, "Deployment").items():
        pods = matching(manifests, deployment["spec"]["selector"]["matchLabels"])
        assert pods == [deployment["spec"]["template"]], f"{name} must select its own pods, and no others"
    for name, service in of_kind(manifests, "Service").items():
        pods = matching(manifests, service["spec"]["selector"])
        assert len(pods) == 1, f"the Service {name} selects {len(pods)} workloads"
        for port in service["spec"]["ports"]:
            assert port["name"]
            assert port["targetPort"] in port_names(pods), f"{name}: no port is named {port['targetPort']}"
    for name, budget in of_kind(manifests, "PodDisruptionBudget").items():
        assert len(matching(manifests, budget["spec"]["selector"]["matchLabels"])) == 1, name
    services = of_kind(manifests, "Service").values()
    for monitor in of_kind(manifests, "ServiceMonitor").values():
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [one for one in services if wanted.items() <= one["metadata"]["labels"].items()]
        assert len(found) == 1
        names = {port["name"] for port in found[0]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= names


def test_what_is_referred_to_exists(environment: str, manifests: list[Manifest]) -> None:
    maps = set(of_kind(manifests, "ConfigMap"))
    secrets = {one["spec"]["target"]["name"] for one in of_kind(manifests, "ExternalSecret").values()}
    secrets |= BY_HAND.get(environment, set())
    for name, pod in workloads(manifests):
        spec = pod["spec"]
        assert spec["serviceAccountName"] in of_kind(manifests, "ServiceAccount")
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for volume in volumes.values():
            assert "configMap" not in volume or volume["configMap"]["name"] in maps, name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            for source in container.get("envFrom", []):
                assert "configMapRef" not in source or source["configMapRef"]["name"] in maps, name
                assert "secretRef" not in source or source["secretRef"]["name"] in secrets, name
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    assert variable["valueFrom"]["secretKeyRef"]["name"] in secrets, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes), name
    for autoscaler in of_kind(manifests, "HorizontalPodAutoscaler").values():
        target = autoscaler["spec"]["scaleTargetRef"]
        assert target["name"] in of_kind(manifests, target["kind"])
        scaled = of_kind(manifests, target["kind"])[target["name"]]
        assert "replicas" not in scaled["spec"], "each deployment would undo what the autoscaler decided"
    services = of_kind(manifests, "Service")
    for ingress in of_kind(manifests, "Ingress").values():
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                ports = {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
                assert backend["port"]["name"] in ports
    for binding in of_kind(manifests, "RoleBinding").values():
        assert binding["roleRef"]["name"] in of_kind(manifests, "Role")
    for monitor in of_kind(manifests, "ServiceMonitor").values():
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["authorization"]["credentials"]["name"] in secrets


def test_no_secret_stands_in_the_open(manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "Secret")
    secret = re.compile(r"KEY|TOKEN$|PASSWORD|SECRET|_URI$")
    for config in of_kind(manifests, "ConfigMap").values():
        assert not [name for name in config["data"] if secret.search(name)]
        assert not re.search(r"\w+://[^/\s:]+:[^/\s]+@", str(config["data"]))
    for name, pod in workloads(manifests):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            for variable in container.get("env", []):
                assert not secret.search(variable["name"]) or "value" not in variable, (
                    name,
                    variable["name"],
                )


def test_variables_are_settings_and_arguments_are_tasks(manifests: list[Manifest]) -> None:
    known = {name for name, _, _ in list_variables()} | {"HOME"}
    given = {
        name for one in of_kind(manifests, "ConfigMap").values() for name in one["data"] if "." not in name
    }
    for _, pod in workloads(manifests):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            given |= {variable["name"] for variable in container.get("env", [])}
            assert container["args"][0] in TASKS
    assert given <= known
    assert not given & set(RENAMED_VARIABLES)


def test_containers_are_confined_and_measured_out(manifests: list[Manifest]) -> None:
    for name, pod in workloads(manifests):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 10001, "the Dockerfile's user"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True, name
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["capabilities"] == {"drop": ["ALL"]}, name
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), name
            asked, most = (
                to_bytes(container["resources"][kind]["memory"]) for kind in ("requests", "limits")
            )
            assert asked <= most, name
        assert all(set(volume) & {"emptyDir", "configMap"} for volume in spec["volumes"]), (
            "nothing of the node"
        )
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], name


def to_bytes(quantity: str) -> int:
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", quantity)
    assert match, f"{quantity} is no quantity of memory"
    return int(match[1]) << {"Ki": 10, "Mi": 20, "Gi": 30}[match[2]]


def test_servers_have_a_probe_for_each_question(manifests: list[Manifest]) -> None:
    for name, deployment in of_kind(manifests, "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            handlers = set(container[probe]) & {"httpGet", "tcpSocket", "exec", "grpc"}
            assert handlers == {"httpGet"}, (name, probe)
            assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
        if name != "llm-server":  # of which only the process itself can be missing
            paths = {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
            assert paths == {"/health/live", "/health/ready"}, name
    service = of_kind(manifests, "Deployment")["service"]["spec"]["template"]["spec"]
    config = next(
        one for name, one in of_kind(manifests, "ConfigMap").items() if "LLM_BASE_URL" in one["data"]
    )
    grace = service["terminationGracePeriodSeconds"]
    assert grace > int(config["data"]["SERVICE_SHUTDOWN_SECONDS"]) + 5, "running answers may finish"


def test_the_network_is_closed_but_for_what_is_said(manifests: list[Manifest]) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    deny = policies.pop("default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    served = {name: one["spec"]["selector"] for name, one in of_kind(manifests, "Service").items()}
    for name, policy in policies.items():
        pods = matching(manifests, policy["spec"]["podSelector"]["matchLabels"])
        assert pods, f"the policy {name} is for nobody"
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], f"{name} is open to all"
            assert {port["port"] for port in rule["ports"]} <= port_names(pods), name
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], f"{name} may go anywhere"
            assert rule["ports"], name
            for peer in rule["to"]:
                if "ipBlock" in peer:
                    assert "169.254.0.0/16" in peer["ipBlock"]["except"], "the node's credentials"
                if set(peer) == {"podSelector"}:
                    assert matching(manifests, peer["podSelector"]["matchLabels"]), name
    reachable = [policies[name]["spec"] for name in served]
    assert all("ingress" in spec for spec in reachable), "a Service that nobody may reach"


def test_the_autoscaler_sees_processors_and_the_queue(environment: str, manifests: list[Manifest]) -> None:
    autoscalers = of_kind(manifests, "HorizontalPodAutoscaler")
    if environment == "dev":
        assert not autoscalers
        return
    spec = autoscalers["service"]["spec"]
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    by_type = {metric["type"]: metric for metric in spec["metrics"]}
    assert by_type["Resource"]["resource"]["name"] == "cpu"
    from llm_engineering.infrastructure.api.metrics import ServiceMetrics

    exported = {family.name for family in ServiceMetrics().registry.collect()}
    assert by_type["Pods"]["pods"]["metric"]["name"] in exported


def test_scheduled_pipelines_do_not_run_into_each_other(environment: str, manifests: list[Manifest]) -> None:
    jobs = of_kind(manifests, "CronJob")
    assert set(jobs) == {"collect", "evaluate"}
    for job in jobs.values():
        spec = job["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert len(spec["schedule"].split()) == 5
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0
        assert spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"
        assert spec.get("suspend", False) is (environment == "dev")


def test_the_role_reads_no_secret_and_grants_nothing_more(manifests: list[Manifest]) -> None:
    for role in of_kind(manifests, "Role").values():
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            assert not {"secrets", "pods/exec"} & set(rule["resources"])
            if {"roles", "rolebindings", "namespaces"} & set(rule["resources"]):
                assert rule["verbs"] == ["get", "patch"], "the cluster lets nobody give more than they have"
            assert "delete" not in rule["verbs"]


def test_who_may_deploy_is_a_group_of_each_environment(environment: str, manifests: list[Manifest]) -> None:
    (binding,) = [one for one in manifests if one["kind"] == "RoleBinding"]
    assert [one["name"] for one in binding["subjects"]] == [f"twin:{environment}:deployers"]


def test_images_are_those_that_were_asked_for(manifests: list[Manifest]) -> None:
    images = {container["image"] for manifest in manifests for container in list_containers(manifest)}
    assert images == {"registry.test/twin-service:abc", "registry.test/twin-pipelines:abc"}


def test_who_deploys_may_change_each_kind_that_is_applied(manifests: list[Manifest]) -> None:
    (role,) = of_kind(manifests, "Role").values()
    allowed = {
        (group, resource)
        for rule in role["rules"]
        if "patch" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    for manifest in manifests:
        group = manifest["apiVersion"].rpartition("/")[0]
        kind = manifest["kind"].lower()
        plural = kind[:-1] + "ies" if kind.endswith("y") else kind + ("es" if kind.endswith("s") else "s")
        assert (group, plural) in allowed

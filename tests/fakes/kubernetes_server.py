"""A Kubernetes API server as far as ``kubectl apply --server-side`` and ``rollout status`` need one: it keeps what it is given.

It knows the kinds of ``infra/kubernetes``, merges nothing, checks nothing, and calls every Deployment rolled out at once.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

KINDS = {
    "v1": {
        "Namespace": "namespaces",
        "ConfigMap": "configmaps",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "batch/v1": {"CronJob": "cronjobs"},
    "networking.k8s.io/v1": {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
    "external-secrets.io/v1": {"ExternalSecret": "externalsecrets"},
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors"},
}


class KubernetesServer:
    """Runs inside of its block; ``objects`` holds what was applied, by path.

    Args:
        refuse: a resource, such as ``ingresses``, that this user may not change.
    """

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.objects: dict[str, dict[str, Any]] = {}
        self.changes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def write_config(self, file: Path) -> Path:
        """Write a configuration for kubectl that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return file

    def list_kinds(self) -> set[tuple[str, str]]:
        """Return (kind, name) of all that was applied."""
        return {(one["kind"], one["metadata"]["name"]) for one in self.objects.values()}

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and body of a response."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path == "/version":
            return 200, {"major": "1", "minor": "37", "gitVersion": "v1.37.1"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/openapi/v3":
            addresses = {
                _address(one): {"serverRelativeURL": f"/openapi/v3/{_address(one)}"} for one in KINDS
            }
            return 200, {"paths": addresses}
        if path.startswith("/openapi/v3/"):
            version = path.removeprefix("/openapi/v3/").removeprefix("apis/").removeprefix("api/")
            return 200, {
                "openapi": "3.0.0",
                "info": {"title": "k", "version": "1"},
                "paths": _describe(version),
            }
        if path == "/apis":
            return 200, {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(one) for one in KINDS if "/" in one],
            }
        if (version := path.removeprefix("/apis/").removeprefix("/api/")) in KINDS:
            return 200, {
                "kind": "APIResourceList",
                "groupVersion": version,
                "resources": [
                    {
                        "name": name,
                        "kind": kind,
                        "namespaced": kind != "Namespace",
                        "verbs": ["get", "list", "patch", "watch"],
                    }
                    for kind, name in KINDS[version].items()
                ],
            }
        if method == "PATCH":
            return self._apply(path, yaml.safe_load(body))
        if path in self.objects:
            return 200, self.objects[path]
        if path.rsplit("/", 1)[-1] == "deployments":
            name = query["fieldSelector"][0].removeprefix("metadata.name=")
            found = [one for key, one in self.objects.items() if key == f"{path}/{name}"]
            return 200, {
                "kind": "DeploymentList",
                "apiVersion": "apps/v1",
                "metadata": {"resourceVersion": "1"},
                "items": found,
            }
        return _refuse(404, "NotFound", f"there is no {path}")

    def _apply(self, path: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refuse and f"/{self.refuse}/" in path:
            return _refuse(403, "Forbidden", f"{self.refuse} is forbidden: User cannot patch resource")
        before = self.objects.get(path)
        kept = {
            **given,
            "metadata": {**given["metadata"], "uid": path, "resourceVersion": "1", "generation": 1},
        }
        if given["kind"] == "Deployment":
            count = given["spec"].setdefault("replicas", 1)
            kept["status"] = {
                "observedGeneration": 1,
                "replicas": count,
                "updatedReplicas": count,
                "availableReplicas": count,
            }
        self.changes += kept != before
        self.objects[path] = kept
        return (201 if before is None else 200), kept

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply("GET")

            def do_PATCH(self) -> None:
                self._reply("PATCH")

            def _reply(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, told = server.answer(method, self.path, body)
                data = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        return Handler


def _group(version: str) -> dict[str, Any]:
    name, number = version.split("/")
    preferred = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [preferred], "preferredVersion": preferred}


def _address(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _describe(version: str) -> dict[str, Any]:
    """What kubectl looks for before it sends anything: that the server itself checks the fields."""
    group, _, number = version.rpartition("/")
    return {
        f"/{_address(version)}/{name}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for kind, name in KINDS[version].items()
    }


def _refuse(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }

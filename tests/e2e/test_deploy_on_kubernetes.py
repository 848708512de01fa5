"""``poe deploy-service-on-kubernetes``: the real kubectl, against a server that speaks Kubernetes' protocol."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fakes.kubernetes_server import KubernetesServer

pytest.importorskip("kubernetes_validate", reason="needs the group infra: ./poe setup --with infra")

IMAGES = ("--registry", "registry.test", "--tag", "abc")


def deploy(folder: Path, config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "tools.kubernetes", *options]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def test_an_environment_is_applied_and_again_without_change(tmp_path: Path) -> None:
    with KubernetesServer() as server:
        config = server.write_config(tmp_path / "config")
        first = deploy(tmp_path, config, "--environment", "staging", *IMAGES)
        assert first.returncode == 0, first.stderr
        applied, changes = server.list_kinds(), server.changes
        assert {("Namespace", "twin-staging"), ("Deployment", "service"), ("CronJob", "collect")} <= applied
        assert first.stdout.count("successfully rolled out") == 3
        assert server.url in first.stdout
        again = deploy(tmp_path, config, "--environment", "staging", *IMAGES)
        assert again.returncode == 0, again.stderr
        assert (server.list_kinds(), server.changes) == (applied, changes)


def test_a_dry_run_writes_manifests_and_asks_nobody(tmp_path: Path) -> None:
    shown = deploy(tmp_path, tmp_path / "none", "--environment", "production", "--dry-run", *IMAGES)
    assert shown.returncode == 0, shown.stderr
    kinds = {manifest["kind"] for manifest in yaml.safe_load_all(shown.stdout)}
    assert {"Deployment", "HorizontalPodAutoscaler", "NetworkPolicy"} <= kinds
    assert "registry.test/twin-service:abc" in shown.stderr


def test_without_a_cluster_the_error_says_where_to_name_one(tmp_path: Path) -> None:
    with KubernetesServer() as gone:
        config = gone.write_config(tmp_path / "config")
    done = deploy(tmp_path, config)
    assert done.returncode == 1
    assert "KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr


def test_images_that_nobody_named_are_not_applied(tmp_path: Path) -> None:
    with KubernetesServer() as server:
        done = deploy(tmp_path, server.write_config(tmp_path / "config"), "--environment", "staging")
        assert done.returncode == 1
        assert "--tag" in done.stderr
        assert not server.objects


def test_production_is_not_changed_without_a_yes(tmp_path: Path) -> None:
    with KubernetesServer() as server:
        config = server.write_config(tmp_path / "config")
        done = deploy(tmp_path, config, "--environment", "production", *IMAGES)
        assert done.returncode == 1
        assert "--yes" in done.stderr
        assert not server.objects
        done = deploy(tmp_path, config, "--environment", "production", *IMAGES, "--yes")
        assert done.returncode == 0, done.stderr


def test_what_the_cluster_refuses_is_told(tmp_path: Path) -> None:
    with KubernetesServer(refuse="ingresses") as server:
        done = deploy(tmp_path, server.write_config(tmp_path / "config"), *IMAGES)
        assert done.returncode == 1
        assert "ingresses is forbidden" in done.stderr

"""Puts the service on Kubernetes: ``./poe deploy-service-on-kubernetes --environment dev|staging|production``.

Renders ``infra/kubernetes/overlays/ENVIRONMENT``, shows what it holds, applies it to the cluster that kubectl is set to, and
waits until the new pods serve. Applying the same twice changes nothing. ``--dry-run`` ends before the cluster is asked.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from llm_engineering.domain.errors import ConfigurationError, TwinError
from tools.console import console, errors, make_parser, run
from tools.programs import find_program, run_program

OVERLAYS = Path("infra/kubernetes/overlays")
IMAGES = ("twin-service", "twin-pipelines")
"""The images that the manifests name; ``--registry`` and ``--tag`` say which ones are meant."""
FIELD_MANAGER = "llm-twin"

Manifest = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("deploy-service-on-kubernetes", __doc__)
    parser.add_argument(
        "--environment", choices=sorted(path.name for path in OVERLAYS.iterdir()), default="dev"
    )
    parser.add_argument(
        "--registry", help="where the images are, such as ACCOUNT.dkr.ecr.REGION.amazonaws.com"
    )
    parser.add_argument("--tag", help="the images' tag, such as a commit")
    parser.add_argument("--context", help="of kubectl's configuration (default: its current one)")
    parser.add_argument(
        "--dry-run", action="store_true", help="write the manifests to standard output, apply nothing"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before production is changed")
    parser.add_argument(
        "--wait-seconds",
        type=int,
        default=600,
        help="for the new pods to serve; 0: do not wait (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    text = render(options.environment, options.registry, options.tag)
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    if options.dry_run:
        console.print(text, markup=False, highlight=False, soft_wrap=True, end="")
    show(manifests)
    if options.dry_run:
        errors.print("[dim]Nothing was applied (--dry-run).[/]")
        return 0
    check_images(manifests)
    kubectl = [_kubectl(), *(["--context", options.context] if options.context else [])]
    cluster = find_cluster(kubectl)
    if options.environment == "production" and not options.yes:
        confirm(f"Change production on {cluster}?")
    apply(kubectl, text, manifests, options.wait_seconds)
    namespace = _namespace(manifests)
    console.print(
        f"[green]✓[/] {escape(namespace)} on {escape(cluster)} is as {escape(str(OVERLAYS / options.environment))} says."
    )
    return 0


def render(environment: str, registry: str | None = None, tag: str | None = None) -> str:
    """Return the manifests of an environment as YAML.

    Args:
        registry: of the images, in place of what the overlay names; None: as it does.
        tag: likewise.
    """
    overlay = OVERLAYS / environment
    with tempfile.TemporaryDirectory(prefix="twin-kustomize-") as folder:
        images = [
            {
                "name": name,
                **({"newName": f"{registry}/{name}"} if registry else {}),
                **({"newTag": tag} if tag else {}),
            }
            for name in IMAGES
        ]
        shown = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(overlay.resolve(), Path(folder).resolve())],
            **({"images": images} if registry or tag else {}),
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(shown), encoding="utf-8")
        return run_program([_kubectl(), "kustomize", folder], f"rendering {overlay}")


def show(manifests: Sequence[Manifest]) -> None:
    """List what is to be on the cluster, on standard error: standard output is for the manifests."""
    title = f"Namespace {_namespace(manifests)}"
    table = Table("Kind", "Name", box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("Image", overflow="fold")
    for manifest in manifests:
        images = sorted({container["image"] for container in list_containers(manifest)})
        table.add_row(manifest["kind"], manifest["metadata"]["name"], ", ".join(images))
    errors.print(table)


def list_containers(manifest: Manifest) -> list[Manifest]:
    """Return all containers of a workload, those that run first too; of anything else, none."""
    spec = manifest.get("spec", {})
    pod = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def check_images(manifests: Sequence[Manifest]) -> None:
    """Refuse to apply what names no image.

    Raises:
        ConfigurationError: an image is a place holder of the overlay.
    """
    for manifest in manifests:
        for container in list_containers(manifest):
            if container["image"].endswith(":unset"):
                raise ConfigurationError(
                    f"No image is named for this environment ({container['image']}). Give --registry and --tag, as "
                    "push-docker-image prints them."
                )


def find_cluster(kubectl: Sequence[str]) -> str:
    """Return the address of the cluster that answers.

    Raises:
        ConfigurationError: none does.
    """
    try:
        run_program([*kubectl, "version", "--output=json", "--request-timeout=10s"], "asking the cluster")
    except TwinError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigurationError(
            f"No Kubernetes cluster answers: {reason}\nSet KUBECONFIG or --context to one (kubectl config get-contexts; on AWS: "
            "aws eks update-kubeconfig --name CLUSTER), or look at the manifests with --dry-run."
        ) from None
    shown = run_program(
        [*kubectl, "config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}"],
        "reading its address",
    )
    return shown or "this cluster"


def confirm(question: str) -> None:
    """Ask before something that others will notice.

    Raises:
        ConfigurationError: the answer is not yes, or there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is nobody to ask here; say --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in {"y", "yes"}:
        raise ConfigurationError("Nothing was changed.")


def apply(kubectl: Sequence[str], text: str, manifests: Sequence[Manifest], wait_seconds: int) -> None:
    """Apply the manifests, the namespace first, and wait until every Deployment's new pods serve.

    Raises:
        TwinError: the cluster refused something, or the pods did not come in time.
    """
    namespace = _namespace(manifests)
    command = [*kubectl, "apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--filename=-"]
    first = [manifest for manifest in manifests if manifest["kind"] == "Namespace"]
    run_program(command, "making the namespace", text=yaml.safe_dump_all(first))
    told = run_program(command, "applying the manifests", text=text)
    console.print(told, markup=False, highlight=False, end="")
    for manifest in manifests:
        if manifest["kind"] != "Deployment" or not wait_seconds:
            continue
        name = manifest["metadata"]["name"]
        waiting = [
            *kubectl,
            "--namespace",
            namespace,
            "rollout",
            "status",
            f"deployment/{name}",
            f"--timeout={wait_seconds}s",
        ]
        run_program(
            waiting,
            f"waiting for {name}; see: kubectl --namespace {namespace} describe deployment {name}",
            show=True,
        )


def _namespace(manifests: Sequence[Manifest]) -> str:
    return next(
        str(manifest["metadata"]["name"]) for manifest in manifests if manifest["kind"] == "Namespace"
    )


def _kubectl() -> str:
    return find_program("kubectl", "Install it from kubernetes.io, or with: ./poe setup --with infra")


if __name__ == "__main__":
    run(main)

"""Where pipelines run: ``./poe set-aws-stack``, ``set-asynchronous-runs``, ``zenml-server-disconnect``; and the settings that
go with them: ``export-settings-to-zenml``, ``delete-settings-zenml``.

The AWS stack runs each step as a job on SageMaker, with artifacts in S3 and images in ECR; ``infra/aws`` makes what it needs.
Steps get the settings from ZenML's secret store, whose values no task here ever prints.
"""

import argparse
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values
from rich.markup import escape
from rich.table import Table

from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, TwinError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import list_variables, load_settings
from tools.console import console, make_parser, run, user_path
from tools.programs import find_program, run_program

if TYPE_CHECKING:
    from zenml.client import Client
    from zenml.enums import StackComponentType

STACK = "twin-aws"
SECRET = "twin-settings"
IMAGE_LABEL = "image"
"""Of the stack: the image that its steps run in."""
MODULE = Path("infra/aws")
_NOTHING = frozenset({"None", "null"})
"""Python's and JSON's spelling of nothing; `none` is a value of some settings, such as TRACING_KIND."""


@dataclass(frozen=True, slots=True)
class Account:
    """What the stack needs to know of an AWS account."""

    region: str
    bucket: str
    prefix: str
    registry: str
    role_arn: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    load_settings()  # what is wrong in .env is told before ZenML starts, which takes seconds
    console.print("[dim]… asking ZenML[/]")
    with _explain_zenml():
        if options.action == "set-aws":
            return set_aws_stack(read_account(options.outputs), options.tag)
        if options.action == "set-asynchronous":
            return set_asynchronous()
        if options.action == "disconnect":
            return disconnect()
        if options.action == "export":
            return export_settings()
        return delete_settings()


# --- the stack --------------------------------------------------------------------------------------------------------


def read_account(outputs: Path | None) -> Account:
    """Read Terraform's outputs from a file (``terraform output -json``), or ask Terraform.

    Raises:
        ConfigurationError: there are none, or one that is needed is missing.
    """
    if outputs is None:
        terraform = find_program("terraform", "Install it, or give the outputs: --outputs FILE.")
        text = run_program([terraform, f"-chdir={MODULE}", "output", "-json"], "reading its outputs")
        whence = f"Terraform in {MODULE}"
    else:
        try:
            text, whence = outputs.read_text(encoding="utf-8"), str(outputs)
        except OSError as error:
            raise ConfigurationError(f"The outputs in {outputs} cannot be read: {error.strerror}.") from None
    try:
        found = {name: one["value"] for name, one in json.loads(text).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigurationError(
            f"{whence} gave no outputs as `terraform output -json` writes them."
        ) from None
    needed = ("region", "bucket", "prefix", "ecr_registry", "execution_role_arn")
    missing = [name for name in needed if not found.get(name)]
    if missing:
        raise ConfigurationError(
            f"{whence} has no {', '.join(missing)}. Apply {MODULE} first: terraform -chdir={MODULE} apply"
        )
    return Account(*(str(found[name]) for name in needed))


def set_aws_stack(account: Account, tag: str | None) -> int:
    """Register the stack, or bring the one that is there up to date, and make it the active one."""
    from zenml.client import Client
    from zenml.enums import StackComponentType

    _check_packages()
    client = Client()
    if not _is_remote(client):
        raise ConfigurationError(
            "The machines of the AWS stack report to ZenML's server, and this ZenML keeps its records in a file on this machine. "
            "Connect to a server that AWS reaches: zenml login URL (docs/deployment.md says how to run one)."
        )
    components: dict[StackComponentType, tuple[str, dict[str, Any]]] = {
        StackComponentType.ARTIFACT_STORE: (
            "s3",
            {"path": f"s3://{account.bucket}/{account.prefix}/zenml", **_endpoint()},
        ),
        StackComponentType.CONTAINER_REGISTRY: ("aws", {"uri": account.registry}),
        StackComponentType.ORCHESTRATOR: (
            "sagemaker",
            {
                "execution_role": account.role_arn,
                "region": account.region,
                "bucket": account.bucket,
                "synchronous": True,  # set-asynchronous-runs changes it, and this task changes it back
            },
        ),
        StackComponentType.IMAGE_BUILDER: ("local", {}),
    }
    for kind, (flavor, configuration) in components.items():
        _register(client, kind, flavor, configuration)
    labels = {IMAGE_LABEL: f"{account.registry}/twin-pipelines:{tag}"} if tag else None
    names = dict.fromkeys(components, STACK)
    try:
        client.get_stack(STACK, allow_name_prefix_match=False)
    except KeyError:
        client.create_stack(STACK, names, labels=labels)
    else:
        client.update_stack(STACK, labels=labels, component_updates={kind: [STACK] for kind in components})
    # A step's machine ends with it, so its files go to where the next one finds them.
    shared = f"s3://{account.bucket}/{account.prefix}/shared"
    client.update_stack(STACK, environment={"SHARED_FILES_URI": shared})
    exported = _attach_settings(client)
    client.activate_stack(STACK)
    table = Table("Part", "Kind", "Where", box=None, pad_edge=False)
    where = (
        f"s3://{account.bucket}/{account.prefix}/zenml",
        account.registry,
        account.role_arn,
        "this machine",
    )
    for (kind, (flavor, _)), place in zip(components.items(), where, strict=True):
        table.add_row(kind.value.replace("_", " "), flavor, escape(place))
    console.print(table)
    image = client.get_stack(STACK).labels or {}
    console.print(
        f"[green]●[/] [bold]Active stack[/] {STACK} in {escape(account.region)}; store: {escape(client.zen_store.url)}"
    )
    if IMAGE_LABEL not in image:
        console.print(f"[yellow]![/] no image is named yet: push one, then {POE} set-aws-stack --tag TAG")
    if not exported:
        console.print(f"[yellow]![/] steps have no settings yet: {POE} export-settings-to-zenml")
    return 0


def set_asynchronous() -> int:
    """Let runs on the active stack go on alone: the task ends when the run is submitted.

    Raises:
        ConfigurationError: the active stack's orchestrator runs in this process and cannot.
    """
    from zenml.client import Client
    from zenml.enums import StackComponentType

    client = Client()
    orchestrator = client.active_stack_model.components[StackComponentType.ORCHESTRATOR][0]
    if orchestrator.flavor_name in {"local", "local_docker"}:
        raise ConfigurationError(
            f"The active stack runs pipelines on this machine ({orchestrator.flavor_name}), where nothing would go on alone. "
            f"Choose the AWS stack first: {POE} set-aws-stack"
        )
    client.update_stack_component(
        orchestrator.id, StackComponentType.ORCHESTRATOR, configuration={"synchronous": False}
    )
    console.print(
        f"[green]●[/] runs on {escape(client.active_stack_model.name)} are submitted and go on alone; the dashboard shows them"
    )
    return 0


def disconnect() -> int:
    """Leave ZenML's server; what it holds stays there. Runs are recorded on this machine again."""
    from zenml.client import Client
    from zenml.config.global_config import GlobalConfiguration

    client = Client()
    if not _is_remote(client):
        console.print("[dim]○[/] ZenML is connected to no server; its records are on this machine")
        return 0
    if os.environ.get("ZENML_STORE_URL"):
        raise ConfigurationError(
            "ZENML_STORE_URL in the environment names the server, and would connect again at once. Take it out of there."
        )
    url = client.zen_store.url
    GlobalConfiguration().set_default_store()
    Client().activate_stack("default")
    console.print(f"[green]●[/] disconnected from {escape(url)}; runs are recorded on this machine again")
    return 0


def fit_to_stack(pipeline: Any) -> Any:
    """Return a pipeline as the active stack can run it: in the stack's image, and as far as its orchestrator goes on after a
    step that failed. On this machine, nothing is changed."""
    from zenml.client import Client
    from zenml.config import DockerSettings

    client = Client()
    image = (client.active_stack_model.labels or {}).get(IMAGE_LABEL)
    if image is None:
        return pipeline
    modes = client.active_stack.orchestrator.supported_execution_modes
    mode = pipeline.configuration.execution_mode
    return pipeline.with_options(
        settings={"docker": DockerSettings(parent_image=str(image), skip_build=True)},
        execution_mode=mode if mode in modes else modes[0],
    )


def _register(
    client: "Client", kind: "StackComponentType", flavor: str, configuration: dict[str, Any]
) -> None:
    try:
        there = client.get_stack_component(kind, STACK, allow_name_prefix_match=False)
    except KeyError:
        client.create_stack_component(STACK, flavor, kind, configuration)
        return
    if there.flavor_name != flavor:
        raise ConfigurationError(
            f"A {kind.value} called {STACK} is there, of the flavor {there.flavor_name} instead of {flavor}: it is somebody "
            f"else's. Rename it, then run {POE} set-aws-stack again."
        )
    client.update_stack_component(there.id, kind, configuration=configuration)


def _is_remote(client: "Client") -> bool:
    from zenml.enums import StoreType

    return bool(client.zen_store.type == StoreType.REST)


def _endpoint() -> dict[str, str]:
    """An S3 of another maker, where AWS's own variable names one."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {"client_kwargs": json.dumps({"endpoint_url": url})} if url else {}


def _check_packages() -> None:
    for package in ("boto3", "s3fs", "sagemaker"):
        try:
            __import__(package)
        except ImportError:
            raise MissingDependencyError(package, "aws", "The AWS stack") from None


# --- settings ---------------------------------------------------------------------------------------------------------


def collect_settings(env_file: Path = Path(".env")) -> dict[str, str]:
    """Return every setting that is set, by its variable, as the environment or ``.env`` has it. What is not set is left out:
    its default holds elsewhere too.

    Raises:
        ConfigurationError: a value is the word None or null, which would be taken for a value elsewhere.
    """
    known = {name for name, _, _ in list_variables()}
    written = dotenv_values(env_file) if env_file.is_file() else {}
    found = {name.upper(): value for name, value in written.items() if name.upper() in known}
    found |= {name: os.environ[name] for name in known if name in os.environ}
    kept = {name: value for name, value in found.items() if value}
    if wrong := sorted(name for name, value in kept.items() if value.strip() in _NOTHING):
        raise ConfigurationError(
            f"{', '.join(wrong)}: the value is the word None or null. Where nothing is meant, leave the variable out."
        )
    return dict(sorted(kept.items()))


def export_settings() -> int:
    """Write the settings that are set into ZenML's secret store, in place of those that were there."""
    from zenml.client import Client

    settings = collect_settings()
    if not settings:
        raise ConfigurationError(
            "Nothing is set, in .env or in the environment, so there is nothing to export."
        )
    client = Client()
    with suppress_secret_log():
        try:
            there = client.get_secret(SECRET, allow_partial_name_match=False)
        except KeyError:
            client.create_secret(SECRET, dict(settings))
        else:
            gone = [name for name in there.values if name not in settings]
            client.update_secret(there.id, add_or_update_values=dict(settings), remove_values=gone)
    _attach_settings(client)
    console.print(
        f"[green]●[/] {len(settings)} settings are in ZenML's secret store as {SECRET}, their values shown to nobody:"
    )
    console.print(", ".join(settings), soft_wrap=False)
    return 0


def delete_settings() -> int:
    """Remove the settings from ZenML's secret store."""
    from zenml.client import Client

    client = Client()
    try:
        there = client.get_secret(SECRET, allow_partial_name_match=False)
    except KeyError:
        console.print(f"[dim]○[/] there are no settings in ZenML's secret store ({SECRET})")
        return 0
    for stack in client.list_stacks(name=STACK).items:
        client.update_stack(stack.id, remove_secrets=[there.id])
    client.delete_secret(str(there.id))
    console.print(f"[green]●[/] the settings are gone from ZenML's secret store ({SECRET})")
    return 0


@contextmanager
def suppress_secret_log() -> Iterator[None]:
    """Let no library log what it sends while secrets are being sent."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _attach_settings(client: "Client") -> bool:
    """Have the AWS stack's steps get the settings as variables; False: none were exported."""
    try:
        secret = client.get_secret(SECRET, allow_partial_name_match=False)
    except KeyError:
        return False
    for stack in client.list_stacks(name=STACK).items:
        client.update_stack(stack.id, add_secrets=[secret.id])
    return True


@contextmanager
def _explain_zenml() -> Iterator[None]:
    """Say what ZenML said, in a line: its tracebacks quote what it was given."""
    try:
        yield
    except TwinError:
        raise
    except Exception as error:  # noqa: BLE001 - ZenML raises many kinds, its servers' among them
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise TwinError(f"ZenML refused: {type(error).__name__}: {reason}") from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("…", __doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    stack = actions.add_parser(
        "set-aws", prog=f"{POE} set-aws-stack", description="Run pipelines on SageMaker."
    )
    stack.add_argument(
        "--outputs",
        type=user_path,
        metavar="FILE",
        help="Terraform's outputs as JSON (default: ask Terraform)",
    )
    stack.add_argument("--tag", help="of the image in ECR that steps run in, as push-docker-image prints it")
    for action, task in (
        ("set-asynchronous", "set-asynchronous-runs"),
        ("disconnect", "zenml-server-disconnect"),
        ("export", "export-settings-to-zenml"),
        ("delete", "delete-settings-zenml"),
    ):
        actions.add_parser(action, prog=f"{POE} {task}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)

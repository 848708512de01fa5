"""Images of the project: ``./poe build-docker-image``, ``push-docker-image``, ``run-docker-end-to-end-data-pipeline`` and
``bash-docker-container``.

An image is named ``twin-TARGET`` and tagged by the commit that it was built from; one of uncommitted changes is tagged
``…-changed``, and is not pushed.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.bootstrap.aws import fetch_registry_login
from llm_engineering.domain.errors import ConfigurationError, TwinError
from llm_engineering.domain.hints import POE
from tools.console import console, make_parser, run
from tools.programs import find_program, run_program

TARGETS = ("service", "pipelines", "training")
SERVICE_BYTES = 900_000_000
"""Most that the service's image may weigh: it is pulled whenever a replica is added."""
_NEXT = {
    "service": "Deploy it with: {POE} deploy-service-on-kubernetes --registry {registry} --tag {tag}",
    "pipelines": "Run steps on SageMaker in it: {POE} set-aws-stack --tag {tag}",
    "training": "Train in it: SAGEMAKER_IMAGE={registry}/twin-training:{tag}",
}
"""What a pushed image is for."""
_CHANGED = "-changed"
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
_SHARED = (
    "--volume",
    "twin-data:/app/data",
    "--volume",
    "twin-models:/app/models",
    "--env",
    "HOME=/app/data",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("…-docker-…", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", prog=f"{POE} build-docker-image", description="Build an image.")
    push = commands.add_parser("push", prog=f"{POE} push-docker-image", description="Push a built image.")
    for command in (build, push):
        command.add_argument("--target", choices=TARGETS, default="pipelines", help="default: %(default)s")
        command.add_argument("--tag", help="default: the commit")
    build.add_argument(
        "--platform", help="such as linux/amd64, which SageMaker needs; default: this machine's"
    )
    build.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="see the Dockerfile"
    )
    push.add_argument("--registry", required=True, help="such as ACCOUNT.dkr.ecr.REGION.amazonaws.com")
    task = commands.add_parser("run", help="run a task in a container")
    task.add_argument("task")
    task.add_argument("arguments", nargs=argparse.REMAINDER)
    commands.add_parser("shell", help="open a shell in a container")
    options = parser.parse_args(arguments)
    if options.command == "build":
        build_image(options.target, options.tag or find_tag(), options.platform, options.build_arg)
    elif options.command == "push":
        push_image(options.target, options.tag or find_tag(), options.registry)
    elif options.command == "run":
        start_container([options.task, *options.arguments])
    else:
        start_container(["-l"], entrypoint="bash")
    return 0


def find_tag() -> str:
    """Return the commit that an image is built from; ``…-changed`` where files differ from it.

    Raises:
        ConfigurationError: this folder is no git repository, so ``--tag`` must say.
    """
    git = find_program("git", "Install git, or give --tag.")
    try:
        commit = run_program([git, "rev-parse", "--short=12", "HEAD"], "asking for the commit").strip()
        changed = run_program([git, "status", "--porcelain", "--untracked-files=no"], "looking for changes")
    except TwinError:
        raise ConfigurationError("This folder has no commit to name the image by. Give --tag.") from None
    return commit + (_CHANGED if changed.strip() else "")


def build_image(target: str, tag: str, platform: str | None, build_args: Sequence[str]) -> None:
    """Build an image and say what it weighs.

    Raises:
        TwinError: the build failed.
    """
    docker = find_engine()
    name = f"twin-{target}"
    command = [docker, "build", "--target", target, "--tag", f"{name}:{tag}", "--tag", f"{name}:latest"]
    command += ["--platform", platform] if platform else []
    # Docker reads the value of a bare name from its environment: an index's address may hold a password.
    for given in [*(["PIP_INDEX_URL"] if os.environ.get("PIP_INDEX_URL") else []), *build_args]:
        command += ["--build-arg", given]
    run_program([*command, "."], f"building {name}", environment={"DOCKER_BUILDKIT": "1"}, show=True)
    weight = int(
        run_program([docker, "image", "inspect", "--format", "{{.Size}}", f"{name}:{tag}"], "weighing it")
    )
    console.print(f"[green]✓[/] {name}:{escape(tag)} · {weight / 1e6:,.0f} MB")
    if target == "service" and weight > SERVICE_BYTES:
        console.print(
            f"[yellow]![/] more than the {SERVICE_BYTES / 1e6:,.0f} MB that the service's image may weigh"
        )


def push_image(target: str, tag: str, registry: str) -> None:
    """Push a built image, logging in first where the registry is Amazon's.

    Raises:
        ConfigurationError: it was never built, or was built from changes that are in no commit.
        TwinError: the registry refused it.
    """
    if tag.endswith(_CHANGED):
        raise ConfigurationError(
            "There are changes that are in no commit, so nobody could find out later what the image holds. Commit them and "
            "build again, or give the --tag of an image that is there."
        )
    docker = find_engine()
    local, remote = f"twin-{target}:{tag}", f"{registry}/twin-{target}:{tag}"
    try:
        run_program([docker, "image", "inspect", "--format", "{{.Id}}", local], "looking for the image")
    except TwinError:
        raise ConfigurationError(
            f"There is no image {local}. Build it first: {POE} build-docker-image --target {target} --tag {tag}"
        ) from None
    if (match := _ECR.fullmatch(registry)) is not None:
        log_in(docker, registry, match["region"])
    run_program([docker, "tag", local, remote], "naming the image")
    run_program([docker, "push", remote], f"pushing {remote}", show=True)
    console.print(f"[green]✓[/] {escape(remote)}")
    console.print(_NEXT[target].format(POE=POE, registry=escape(registry), tag=escape(tag)), soft_wrap=True)


def log_in(docker: str, registry: str, region: str) -> None:
    """Log in to Amazon's registry for twelve hours. The password goes through a pipe, never on a command line.

    Raises:
        MissingDependencyError: boto3 is not installed.
        ConfigurationError, DeploymentError: AWS does not know or let in who asks, or cannot be reached.
    """
    user, password = fetch_registry_login(registry, region)
    command = [docker, "login", "--username", user, "--password-stdin", registry]
    run_program(command, f"logging in to {registry}", text=password)


def start_container(command: Sequence[str], entrypoint: str | None = None) -> None:
    """Become a container of the pipelines' image, confined as in production, on this machine's network, so that stores on
    127.0.0.1 are found. ``.env`` is handed over; data and models are kept in the volumes twin-data and twin-models."""
    docker = find_engine()
    line = [docker, "run", "--rm", "--network", "host", *_CONFINED, *_SHARED]
    line += ["--env-file", ".env"] if Path(".env").is_file() else []
    line += ["--interactive", "--tty"] if sys.stdin.isatty() else []
    line += ["--entrypoint", entrypoint] if entrypoint else []
    sys.exit(subprocess.call([*line, "twin-pipelines:latest", *command]))


def find_engine() -> str:
    """Return Docker's program, once its engine answers.

    Raises:
        ConfigurationError: there is none, or it does not run.
    """
    docker = find_program("docker", "Install Docker (docs.docker.com/engine/install).")
    try:
        run_program([docker, "version", "--format", "{{.Server.Version}}"], "asking the engine")
    except TwinError as error:
        raise ConfigurationError(
            f"Docker's engine does not answer: {str(error).splitlines()[-1]} Start it, or set DOCKER_HOST."
        ) from None
    return docker


if __name__ == "__main__":
    run(main)

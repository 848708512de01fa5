"""Roles in IAM: ``./poe create-sagemaker-execution-role`` for containers, ``./poe create-sagemaker-role`` for whoever trains and
deploys. Both can be repeated, and show what they would do with ``--dry-run``.
"""

import argparse
import json
from collections.abc import Sequence

from rich.markup import escape

from llm_engineering.bootstrap.aws import (
    apply_deployer_user,
    apply_sagemaker_role,
    open_aws,
    render_role,
    role_scope,
)
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, user_path

_DONE = {"create": "[green]made[/]", "update": "[yellow]changed[/]", "keep": "[dim]as it should be[/]"}
_WOULD = {
    "create": "[green]would be made[/]",
    "update": "[yellow]would be changed[/]",
    "keep": "[dim]as it should be[/]",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_aws(settings) as clients:
        scope = role_scope(settings, clients, options.bucket, options.name)
        if options.show:
            for title, document in render_role(options.kind, scope).items():
                console.print(f"[bold]{title}[/]")
                console.out(json.dumps(document, indent=2), highlight=False)
            return 0
        changes = apply_sagemaker_role(clients, options.kind, scope, options.project, dry_run=options.dry_run)
        if options.kind == "deployer" and (options.user or options.keys_file):
            changes += apply_deployer_user(
                clients, scope, options.project, keys_file=options.keys_file, dry_run=options.dry_run
            )
    for change in changes:
        console.print(f"  {(_WOULD if options.dry_run else _DONE)[change.act]}  {escape(change.what)}")
    if options.dry_run:
        console.print("Nothing was changed.")
    elif options.kind == "execution":
        console.print(f"Set it: SAGEMAKER_ROLE_ARN={scope.role_arn('execution')}")
    else:
        console.print(
            f"Take it: a profile with role_arn = {scope.role_arn('deployer')}, or aws sts assume-role."
        )
        if options.keys_file:
            file = escape(str(options.keys_file))
            console.print(f"The key is in {file} and nowhere else. Use it:")
            console.print(f"  AWS_SHARED_CREDENTIALS_FILE={file} AWS_PROFILE={scope.name}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("create-sagemaker-…-role", __doc__)
    commands = parser.add_subparsers(dest="kind", required=True)
    execution = commands.add_parser("execution", prog=f"{POE} create-sagemaker-execution-role")
    deployer = commands.add_parser("deployer", prog=f"{POE} create-sagemaker-role")
    for command in (execution, deployer):
        command.add_argument("--bucket", help="in S3, for models and results (default: SAGEMAKER_BUCKET)")
        command.add_argument(
            "--name", default="twin", help="beginning of all names that it may touch (default %(default)s)"
        )
        command.add_argument("--project", default="llm-twin", help="tag; a role of another one is left alone")
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
        command.add_argument("--show", action="store_true", help="print the policies as they would be")
    deployer.add_argument(
        "--user", action="store_true", help="also a user who may take the role, and nothing else"
    )
    deployer.add_argument(
        "--keys-file",
        type=user_path,
        metavar="FILE",
        help="make the user an access key and write it there (0600)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)

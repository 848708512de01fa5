"""Says what of the account in AWS is here, what is missing, and what runs and costs: ``./poe aws-doctor [--json]``.

It asks only, and changes nothing. Exit code 1: something is missing without which nothing can be deployed.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from llm_engineering.application.deployment.config import Deployment
from llm_engineering.bootstrap.aws import open_account, read_prices
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.training import read_zenml_store
from llm_engineering.domain.hints import POE
from llm_engineering.settings import Settings, load_settings
from tools.checks import Finding, State, find_missing_group, guard_check, zenml_home
from tools.console import make_parser, run, user_path
from tools.doctor import show_findings
from tools.inference_endpoint import CONFIG
from tools.run_config import read_service_config

_LOG_IN = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and SAGEMAKER_REGION"
_SHOWN = 6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("aws-doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="for a machine to read")
    parser.add_argument(
        "--config", type=user_path, default=CONFIG, help="YAML of the endpoint (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings.model_copy(update={"log": settings.log.model_copy(update={"level": "ERROR"})}))
    started = time.perf_counter()
    deployment = read_service_config(options.config, Deployment)
    findings = run_checks(settings, deployment)
    if options.json:
        print(
            json.dumps(
                [{**asdict(one), "stops": one.stops} for one in findings], ensure_ascii=False, indent=2
            )
        )
    else:
        show_findings(findings, time.perf_counter() - started, f"{POE} deploy-inference-endpoint")
    return 1 if any(finding.stops for finding in findings) else 0


def run_checks(settings: Settings, deployment: Deployment) -> list[Finding]:
    """Return what all checks find, in the order of the screen."""
    missing = find_missing_group("aws")
    if "boto3" in missing:
        todo = f"{POE} setup --with aws"
        return [
            Finding("Installed", "group aws", State.MISSING, f"not as pinned: {missing}", todo, required=True)
        ]
    findings: list[Finding] = []
    with open_account(settings, deployment) as account:
        findings += _required(guard_check("Account", lambda: _check_caller(account)))
        if any(finding.stops for finding in findings):
            return findings
        findings += guard_check("Roles", lambda: _check_rights(account))
        findings += guard_check("Roles", lambda: _check_execution_role(settings, account))
        findings += guard_check("Places", lambda: _check_bucket(settings, account))
        findings += guard_check("Places", lambda: _check_images(account))
        findings += guard_check("Places", _check_stack)
        findings += guard_check("Quotas", lambda: _check_quota(deployment, account))
        findings += guard_check("Costs", lambda: _check_costs(account))
    return findings


def _required(findings: list[Finding]) -> list[Finding]:
    """Without an account nothing else can be asked."""
    return [
        Finding(one.section, "credentials", State.MISSING, one.detail, _LOG_IN, required=True)
        if one.state is State.WARN
        else one
        for one in findings
    ]


def _check_caller(account: Any) -> Iterator[Finding]:
    yield Finding("Account", "credentials", State.OK, account.find_caller())
    yield Finding("Account", "region", State.OK, account.region)


def _check_rights(account: Any) -> Iterator[Finding]:
    if account.scope is None:
        todo = "set SAGEMAKER_BUCKET"
        yield Finding("Roles", "rights", State.WARN, "cannot be asked for without a bucket", todo)
        return
    missing = account.find_missing_rights(account.find_caller(), "deployer")
    yield _describe_rights("your rights", missing, f"{POE} create-sagemaker-role")


def _describe_rights(name: str, missing: list[str] | None, todo: str) -> Finding:
    if missing is None:
        return Finding("Roles", name, State.WARN, "AWS does not let them be simulated for this caller", todo)
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        return Finding("Roles", name, State.MISSING, f"missing: {', '.join(missing[:_SHOWN])}{more}", todo)
    return Finding("Roles", name, State.OK, "all that are needed")


def _check_execution_role(settings: Settings, account: Any) -> Iterator[Finding]:
    arn, todo = settings.sagemaker.role_arn, f"{POE} create-sagemaker-execution-role"
    if arn is None:
        yield Finding("Roles", "containers", State.MISSING, "SAGEMAKER_ROLE_ARN is not set", todo)
        return
    if wrong := account.check_execution_role(arn):
        yield Finding("Roles", "containers", State.MISSING, wrong, todo)
        return
    yield Finding("Roles", "containers", State.OK, arn)
    if account.scope is not None:
        yield _describe_rights("their rights", account.find_missing_rights(arn, "execution"), todo)


def _check_bucket(settings: Settings, account: Any) -> Iterator[Finding]:
    bucket = settings.sagemaker.bucket
    if bucket is None:
        yield Finding(
            "Places",
            "bucket",
            State.MISSING,
            "SAGEMAKER_BUCKET is not set",
            "make one in this region, and set it",
        )
    else:
        wrong = account.check_bucket(bucket)
        todo = "make it in this region, or correct SAGEMAKER_BUCKET" if wrong else ""
        yield Finding(
            "Places",
            "bucket",
            State.MISSING if wrong else State.OK,
            f"{bucket}{': ' if wrong else ''}{wrong}",
            todo,
        )


def _check_images(account: Any) -> Iterator[Finding]:
    for name, image in account.images.items():
        wrong = account.check_image(image)
        todo = f"{POE} push-docker-image, or correct {name}" if wrong else ""
        yield Finding("Places", "image", State.MISSING if wrong else State.OK, wrong or image, todo)


def _check_stack() -> Iterator[Finding]:
    store = read_zenml_store(zenml_home())
    told = "no run yet" if store is None else store.server or f"stack {store.stack or 'unknown'}"
    yield Finding("Places", "ZenML", State.OK if store else State.OPTIONAL, told)


def _check_quota(deployment: Deployment, account: Any) -> Iterator[Finding]:
    kind = deployment.instance.type
    quota = account.find_quota(kind)
    if quota is None:
        yield Finding("Quotas", kind, State.OPTIONAL, "AWS does not say how many may serve models")
    else:
        enough = quota >= deployment.instance.count
        todo = "" if enough else f"ask for more: {account.quotas_page}"
        yield Finding(
            "Quotas", kind, State.OK if enough else State.MISSING, f"{quota:g} may serve models", todo
        )


def _check_costs(account: Any) -> Iterator[Finding]:
    prices, total, unknown = read_prices(), 0.0, 0
    for running in account.find_running():
        hourly = prices.find_hourly(account.region, running.instance_type)
        told = f"{running.instances} × {running.instance_type}"
        if hourly is None:
            unknown += 1
            yield Finding(
                "Costs", running.what, State.WARN, f"{told}, price unknown", "infra/aws/prices.yaml"
            )
        else:
            total += hourly * running.instances
            yield Finding(
                "Costs",
                running.what,
                State.OK,
                f"{told}, {hourly * running.instances:.2f} {prices.currency} an hour",
            )
    more = f" and {unknown} of unknown price" if unknown else ""
    yield Finding(
        "Costs", "an hour", State.OK, f"{total:.2f} {prices.currency}{more} ({prices.describe_source()})"
    )


if __name__ == "__main__":
    run(main)

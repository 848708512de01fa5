"""Training jobs against moto's SageMaker, S3, CloudWatch and Secrets Manager, spoken to over HTTP.

moto ends a job at once and makes no model: states, reasons and results are put into it, as AWS would come to them.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("boto3") is None or find_spec("moto") is None:
    pytest.skip("needs boto3 and moto: the group dev", allow_module_level=True)

import boto3
from loguru import logger
from moto.sagemaker.models import sagemaker_backends
from moto.server import ThreadedMotoServer

from llm_engineering.application.training.finetune.dpo import DpoRun
from llm_engineering.application.training.finetune.remote import RemoteRun, remote_run
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.bootstrap.training import read_container_secrets
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, ModelFileError, TrainingError
from llm_engineering.infrastructure.training.sagemaker import JobPlace, SageMakerJobs, read_secret
from llm_engineering.infrastructure.training.sagemaker.faults import explain_failures
from tests.fakes.sagemaker_server import ACCOUNT, KEY_ID, SECRET
from tests.fakes.toy_model import make_samples, write_dataset
from tests.services import free_port
from tests.unit.training_archives import model_folder, packed
from tools.training_job import main

REGION, BUCKET = "eu-west-1", "twin-jobs"
PLACE = JobPlace(
    image=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/twin:1",
    role_arn=f"arn:aws:iam::{ACCOUNT}:role/twin-training",
    bucket=BUCKET,
    region=REGION,
    instance_type="ml.g4dn.xlarge",
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture(autouse=True)
def aws(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dummy credentials, an empty account with a bucket, and none of this machine's own configuration."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    import httpx

    httpx.post(f"{server}/moto-api/reset")
    client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})


def client(service: str) -> Any:
    return boto3.Session(region_name=REGION).client(service)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    kept: list[str] = []
    sink = logger.add(lambda message: kept.append(str(message.record["message"])))
    yield kept
    logger.remove(sink)


@pytest.fixture
def run(tmp_path: Path) -> RemoteRun:
    data = write_dataset(tmp_path / "data", make_samples(3))
    (data / "dropped.jsonl").write_text("private\n")
    return remote_run(Training(training=SftRun(dataset=data, output_dir=tmp_path / "trained")))


@pytest.fixture
def jobs() -> Iterator[SageMakerJobs]:
    jobs = SageMakerJobs(PLACE, sleep=no_sleep)
    yield jobs
    jobs.close()


def no_sleep(_: float) -> None: ...


def known() -> dict[str, Any]:
    """Jobs in the emulator, by name; what is set on one is what AWS then tells of it."""
    (backend,) = (regions[REGION] for regions in sagemaker_backends.values() if regions[REGION].training_jobs)
    return backend.training_jobs


def objects() -> dict[str, str]:
    found = client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", ())
    return {item["Key"]: str(item["LastModified"]) for item in found}


def put_result(name: str, archive: bytes) -> None:
    client("s3").put_object(Bucket=BUCKET, Key=f"twin/output/{name}/output/model.tar.gz", Body=archive)


class TestStarting:
    def test_files_and_request_arrive_and_nothing_that_was_dropped_leaves(
        self, jobs: SageMakerJobs, run: RemoteRun
    ) -> None:
        name = jobs.start(run)
        assert name == run.job_name
        told = client("sagemaker").describe_training_job(TrainingJobName=name)
        assert told["AlgorithmSpecification"]["TrainingImage"] == PLACE.image
        assert told["CheckpointConfig"]["S3Uri"] == f"s3://{BUCKET}/twin/checkpoints/{run.identity}"
        assert {channel["ChannelName"] for channel in told["InputDataConfig"]} == {"run", "instruct"}
        keys = objects()
        assert {key.rpartition("/")[2] for key in keys} == {
            "run.yaml", "manifest.json", "train.jsonl", "validation.jsonl", "test.jsonl"
        }  # fmt: skip
        for channel in told["InputDataConfig"]:
            prefix = channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix(f"s3://{BUCKET}/")
            assert any(key.startswith(prefix) for key in keys)

    def test_the_same_run_is_followed_and_not_started_or_uploaded_twice(
        self, jobs: SageMakerJobs, run: RemoteRun
    ) -> None:
        name = jobs.start(run)
        known()[name].training_job_status = "InProgress"
        before = objects()
        assert jobs.start(run) == name
        assert objects() == before
        assert len(known()) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("status", ["Failed", "Stopped"])
    def test_after_a_failure_another_job_goes_on_from_the_same_checkpoints(
        self, jobs: SageMakerJobs, run: RemoteRun, status: str
    ) -> None:
        first = jobs.start(run)
        known()[first].training_job_status = status
        before = objects()
        second = jobs.start(run)
        assert second == f"{first}-2"
        assert objects() == before, "what is there is not uploaded again"
        one, other = (known()[name].checkpoint_config for name in (first, second))
        assert one == other

    def test_a_job_that_is_being_stopped_is_waited_for(self, run: RemoteRun) -> None:
        def ends(_: float) -> None:
            known()[run.job_name].training_job_status = "Stopped"

        jobs = SageMakerJobs(PLACE, sleep=ends)
        name = jobs.start(run)
        known()[name].training_job_status = "Stopping"
        assert jobs.start(run) == f"{name}-2"

    @pytest.mark.slow
    def test_an_upload_that_was_broken_off_is_completed(self, jobs: SageMakerJobs, run: RemoteRun) -> None:
        name = jobs.start(run)
        lost = next(key for key in objects() if key.endswith("train.jsonl"))
        client("s3").put_object(Bucket=BUCKET, Key=lost, Body=b"torn")
        known()[name].training_job_status = "Failed"
        jobs.start(run)
        body = client("s3").get_object(Bucket=BUCKET, Key=lost)["Body"].read()
        assert len(body.splitlines()) == 3

    def test_a_bucket_that_is_not_there_is_named_with_its_setting(self, run: RemoteRun) -> None:
        from dataclasses import replace

        with pytest.raises(ConfigurationError, match=r"NoSuchBucket.*SAGEMAKER_BUCKET"):
            SageMakerJobs(replace(PLACE, bucket="twin-nowhere")).start(run)

    def test_without_a_region_the_variable_to_set_is_named(self, run: RemoteRun) -> None:
        from dataclasses import replace

        with pytest.raises(ConfigurationError, match="SAGEMAKER_REGION"):
            SageMakerJobs(replace(PLACE, region=None)).start(run)

    def test_without_credentials_the_variables_to_set_are_named(
        self, run: RemoteRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID"):
            SageMakerJobs(PLACE).start(run)

    def test_an_aws_that_does_not_answer_is_told(
        self, run: RemoteRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setattr("time.sleep", no_sleep)
        with pytest.raises(TrainingError, match="cannot be reached"):
            SageMakerJobs(PLACE).start(run)


class TestFollowing:
    def test_states_and_the_container_s_lines_are_told_once(self, run: RemoteRun, lines: list[str]) -> None:
        logs = client("logs")
        group, stream = "/aws/sagemaker/TrainingJobs", f"{run.job_name}/algo-1-1"
        steps: Iterator[Callable[[], object]] = iter([
            lambda: (logs.create_log_group(logGroupName=group),
                     logs.create_log_stream(logGroupName=group, logStreamName=stream),
                     write("Step 1 of 2"), change("Training", "Training image download completed")),
            lambda: write("Step 2 of 2"),
            lambda: setattr(known()[run.job_name], "training_job_status", "Completed"),
        ])  # fmt: skip

        def write(text: str) -> None:
            event = {"timestamp": 1_795_000_000_000, "message": text}
            logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])

        def change(status: str, message: str) -> None:
            job = known()[run.job_name]
            job.secondary_status_transitions.append(
                {"Status": status, "StatusMessage": message, "StartTime": job.creation_time}
            )

        jobs = SageMakerJobs(PLACE, sleep=lambda _: next(steps)())
        name = jobs.start(run)
        known()[name].training_job_status = "InProgress"
        jobs.follow(name)
        assert [line for line in lines if line.startswith("| ")] == ["| Step 1 of 2", "| Step 2 of 2"]
        assert sum("image download completed" in line for line in lines) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("reason", "knob"),
        [
            ("CapacityError: Unable to provision requested ML compute capacity", "SAGEMAKER_INSTANCE_TYPE"),
            ("AlgorithmError: The training needs about 40.0 GiB; 22.0 are free", "batch_size"),
            ("AlgorithmError: CUDA out of memory. GPU 0 has a total capacity of 22.06 GiB", "batch_size"),
            ("ClientError: Cannot pull the image; check its ECR permissions", "SAGEMAKER_IMAGE"),
            ("AlgorithmError: OSError: [Errno 28] No space left on device", "SAGEMAKER_VOLUME_GB"),
            ("AlgorithmError: PermissionError: Permission denied: '/opt/ml/model'", "--target training"),
        ],
    )
    def test_a_failure_gives_its_reason_and_the_setting(
        self, jobs: SageMakerJobs, run: RemoteRun, reason: str, knob: str
    ) -> None:
        name = jobs.start(run)
        known()[name].training_job_status = "Failed"
        known()[name].failure_reason = f"{reason} (account {ACCOUNT})"
        with pytest.raises(TrainingError, match=knob) as caught:
            jobs.follow(name)
        assert reason.partition(":")[0] in str(caught.value)
        assert ACCOUNT not in str(caught.value)

    def test_what_the_container_says_is_told_to_its_end_without_advice_on_aws(
        self, jobs: SageMakerJobs, run: RemoteRun
    ) -> None:
        name = jobs.start(run)
        job = known()[name]
        job.training_job_status = "Failed"
        job.failure_reason = f"AlgorithmError: {'a log line ' * 80}data is no manifest of a data set"
        with pytest.raises(TrainingError, match="no manifest of a data set") as caught:
            jobs.follow(name)
        assert "SAGEMAKER_" not in str(caught.value)

    @pytest.mark.parametrize(
        ("how", "knob"),
        [
            ("MaxRuntimeExceeded", "SAGEMAKER_MAX_HOURS"),
            ("MaxWaitTimeExceeded", "SAGEMAKER_MAX_WAIT_HOURS"),
            ("Stopped", "somebody stopped it"),
        ],
    )
    def test_an_end_before_the_end_says_how_to_go_on(
        self, jobs: SageMakerJobs, run: RemoteRun, how: str, knob: str
    ) -> None:
        name = jobs.start(run)
        known()[name].training_job_status = "Stopped"
        known()[name].secondary_status = how
        with pytest.raises(TrainingError, match=rf"{knob}.*last checkpoint"):
            jobs.follow(name)

    def test_an_unknown_job_is_said_to_be_unknown(self, jobs: SageMakerJobs) -> None:
        with pytest.raises(InvalidInputError, match="no training job nobody-knows"):
            jobs.follow("nobody-knows")


class TestFetching:
    def test_the_model_comes_whole_and_a_second_time_changes_nothing(
        self, jobs: SageMakerJobs, run: RemoteRun, tmp_path: Path
    ) -> None:
        name = jobs.start(run)
        model_folder(tmp_path / "made" / "twin" / "abc")
        put_result(name, packed(tmp_path / "made"))
        (model,) = jobs.fetch(name, run.output)
        assert model == run.output / "twin" / "abc"
        assert (model / "adapter" / "adapter_model.safetensors").read_bytes() == b"weights"
        assert jobs.fetch(name, run.output) == [model]
        assert {entry.name for entry in run.output.iterdir()} == {"twin"}, "nothing is left beside"

    def test_a_result_that_is_not_what_its_manifest_says_is_refused(
        self, jobs: SageMakerJobs, run: RemoteRun, tmp_path: Path
    ) -> None:
        name = jobs.start(run)
        made = model_folder(tmp_path / "made" / "twin" / "abc")
        (made / "adapter" / "adapter_model.safetensors").write_bytes(b"others")
        put_result(name, packed(tmp_path / "made"))
        with pytest.raises(ModelFileError, match="was changed"):
            jobs.fetch(name, run.output)
        assert list(run.output.iterdir()) == []

    def test_a_hostile_result_writes_nothing_elsewhere(
        self, jobs: SageMakerJobs, run: RemoteRun, tmp_path: Path
    ) -> None:
        name = jobs.start(run)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            member = tarfile.TarInfo("../../../escaped.txt")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        put_result(name, stream.getvalue())
        with pytest.raises(ModelFileError, match="leads out of its folder"):
            jobs.fetch(name, run.output)
        assert not list(tmp_path.rglob("escaped.txt"))

    def test_a_result_that_is_gone_is_told(self, jobs: SageMakerJobs, run: RemoteRun) -> None:
        with pytest.raises(TrainingError, match=r"model\.tar\.gz"):
            jobs.fetch(jobs.start(run), run.output)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
    def test_a_full_disk_is_told(self) -> None:
        with (
            pytest.raises(TrainingError, match="disk is full"),
            explain_failures("Fetching"),
            Path("/dev/full").open("wb") as full,
        ):
            full.write(b"model")

    @pytest.mark.slow
    def test_a_job_that_runs_has_no_model_yet(self, jobs: SageMakerJobs, run: RemoteRun) -> None:
        name = jobs.start(run)
        known()[name].training_job_status = "InProgress"
        with pytest.raises(TrainingError, match="no model yet"):
            jobs.fetch(name, run.output)


def test_a_dpo_run_takes_the_sft_model_along(jobs: SageMakerJobs, tmp_path: Path) -> None:
    sft = model_folder(tmp_path / "trained" / "twin" / "abc")
    data = write_dataset(tmp_path / "pairs", make_samples(2), kind="preference")
    run = remote_run(
        Training(training=None, dpo=DpoRun(dataset=data, sft=sft, output_dir=tmp_path / "trained"))
    )
    jobs.start(run)
    kept = {key.split("/", 3)[3] for key in objects() if "/sft-" in key}
    assert kept == {"model.json", "adapter/adapter_model.safetensors"}


def test_sft_and_dpo_on_several_machines_are_refused(tmp_path: Path) -> None:
    sft = SftRun(dataset=write_dataset(tmp_path / "data", make_samples(2)))
    dpo = DpoRun(dataset=write_dataset(tmp_path / "pairs", make_samples(2), kind="preference"))
    both = remote_run(Training(training=sft, dpo=dpo))
    with pytest.raises(ConfigurationError, match="SAGEMAKER_INSTANCE_COUNT=1"):
        SageMakerJobs(replace(PLACE, instance_count=2)).start(both)


class TestSecret:
    def test_its_variables_are_read(self) -> None:
        client("secretsmanager").create_secret(Name="twin", SecretString=json.dumps({"HF_TOKEN": "hf_x"}))
        assert read_secret("twin", REGION) == {"HF_TOKEN": "hf_x"}

    @pytest.mark.slow
    def test_a_container_asks_in_the_region_that_the_platform_tells_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client("secretsmanager").create_secret(Name="twin", SecretString=json.dumps({"HF_TOKEN": "hf_x"}))
        monkeypatch.setenv("TWIN_SECRET", "twin")
        monkeypatch.setenv("AWS_REGION", REGION)
        assert read_container_secrets() == {"HF_TOKEN": "hf_x"}

    def test_another_content_is_refused_and_not_shown(self) -> None:
        client("secretsmanager").create_secret(Name="twin", SecretString="hf_verysecret")
        with pytest.raises(ConfigurationError, match="no JSON object") as caught:
            read_secret("twin", REGION)
        assert "verysecret" not in str(caught.value)


class TestTheTask:
    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        write_dataset(tmp_path / "data", make_samples(3))
        given = {"training": {"dataset": "data", "output_dir": "trained"}}
        (tmp_path / "run.yaml").write_text(json.dumps({"parameters": given}))
        for name in ("image", "role_arn", "bucket", "region", "instance_type"):
            monkeypatch.setenv(f"SAGEMAKER_{name.upper()}", str(getattr(PLACE, name)))
        monkeypatch.setenv("SAGEMAKER_POLL_SECONDS", "0.01")
        return tmp_path / "run.yaml"

    def test_it_starts_and_the_same_command_fetches(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--config", str(config), "--detach"]) == 0
        (name,) = known()
        assert name in capsys.readouterr().out
        model_folder(tmp_path / "made" / "twin" / "abc")
        put_result(name, packed(tmp_path / "made"))
        assert main(["--config", str(config)]) == 0
        assert "trained/twin/abc" in capsys.readouterr().out
        assert (tmp_path / "trained" / "twin" / "abc" / "model.json").is_file()
        assert len(known()) == 1

    @pytest.mark.slow
    def test_another_data_set_than_the_files_can_be_named(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--config", str(config), "--detach"]) == 0
        (first,) = known()
        other = write_dataset(tmp_path / "other", make_samples(4))
        named = ["--config", str(config), "--dataset", str(other)]
        assert main([*named, "--detach"]) == 0
        (second,) = known().keys() - {first}
        model_folder(tmp_path / "made" / "twin" / "abc")
        put_result(second, packed(tmp_path / "made"))
        assert main(named) == 0
        assert f"with 'dataset: {other}' in that file" in capsys.readouterr().out

    def test_ctrl_c_leaves_the_job_and_says_so(
        self, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        main(["--config", str(config), "--detach"])
        (job,) = known().values()
        job.training_job_status = "InProgress"
        monkeypatch.setattr(
            "llm_engineering.infrastructure.training.sagemaker.job_log.JobLog.lines", interrupted
        )
        assert main(["--config", str(config)]) == 130
        assert "goes on in AWS" in " ".join(capsys.readouterr().err.split())
        assert job.training_job_status == "InProgress"

    def test_what_is_not_set_is_named_at_once(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SAGEMAKER_IMAGE", "SAGEMAKER_ROLE_ARN"):
            monkeypatch.delenv(name)
        with pytest.raises(ConfigurationError, match="SAGEMAKER_IMAGE, SAGEMAKER_ROLE_ARN"):
            main(["--config", str(config)])

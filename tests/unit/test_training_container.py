"""Training elsewhere: who a run is, what goes along, how it is asked for and started there, and what is taken back."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.dpo import DpoRun
from llm_engineering.application.training.finetune.remote import (
    Cluster,
    ContainerFolders,
    RemoteRun,
    count_gpus,
    install,
    link_base,
    plan_stages,
    publish,
    read_cluster,
    remote_run,
    remove_torn,
    training_command,
    unpack,
)
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.domain.errors import ConfigurationError, ModelFileError, TemplateMismatchError
from llm_engineering.infrastructure.training.sagemaker.request import JobPlace, job_request
from tests.fakes.toy_model import make_samples, write_dataset
from tests.unit.training_archives import model_folder, packed
from tools.distributed import check_shared
from tools.run_config import read_run_config

PLACE = JobPlace(image="image:1", role_arn="arn:aws:iam::123456789012:role/x", bucket="bucket")


def sft_run(folder: Path, **values: object) -> RemoteRun:
    data = write_dataset(folder / "data", make_samples(2))
    return remote_run(Training(training=SftRun.model_validate({"dataset": data, **values})))


class TestIdentity:
    def test_it_is_of_configuration_and_data_and_not_of_places(self, tmp_path: Path) -> None:
        one = sft_run(tmp_path / "a", output_dir="here")
        assert sft_run(tmp_path / "b", output_dir="there").identity == one.identity
        assert sft_run(tmp_path / "a", sft={"max_steps": 9}).identity != one.identity
        write_dataset(tmp_path / "a" / "data", make_samples(3))
        other = Training(training=SftRun(dataset=tmp_path / "a" / "data"))
        assert remote_run(other).identity != one.identity

    def test_a_job_s_name_is_one_that_aws_takes(self, tmp_path: Path) -> None:
        name = sft_run(tmp_path, name="my_" + "long" * 20).job_name
        assert len(name) <= 60
        assert "_" not in name
        assert "-sft-" in name


class TestWhatGoesAlong:
    def test_a_template_mismatch_is_told_before_anything_is_paid_for(self, tmp_path: Path) -> None:
        data = write_dataset(tmp_path, make_samples(2), template_name="gemma")
        with pytest.raises(TemplateMismatchError):
            remote_run(Training(training=SftRun(dataset=data)))

    def test_a_base_from_a_folder_goes_along_under_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models" / "mine").mkdir(parents=True)
        (tmp_path / "models" / "mine" / "config.json").write_text("{}")
        run = sft_run(tmp_path, sft={"base_model": "models/mine"})
        base = next(item for item in run.inputs if item.channel == "base")
        assert list(base.files) == ["config.json"]

    def test_a_base_with_a_path_of_this_machine_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="relative"):
            sft_run(tmp_path, sft={"base_model": str(tmp_path)})

    def test_the_described_run_is_a_valid_yaml_without_paths(self, tmp_path: Path) -> None:
        run = sft_run(tmp_path, sft={"max_steps": 9})
        (content,) = run.inputs[0].files.values()
        assert isinstance(content, bytes)
        assert str(tmp_path) not in content.decode()
        (tmp_path / "run.yaml").write_bytes(content)
        read, _ = read_run_config(tmp_path / "run.yaml", Training)
        assert read.training is not None
        assert read.training.sft == SftConfig(max_steps=9)


class TestRequest:
    def test_checkpoints_go_by_the_run_and_spot_waits_longer_than_it_trains(self, tmp_path: Path) -> None:
        run = sft_run(tmp_path)
        request = job_request(
            "name", run, replace(PLACE, spot=True, max_hours=1, max_wait_hours=2, prefix="")
        )
        assert request["CheckpointConfig"] == {"S3Uri": f"s3://bucket/checkpoints/{run.identity}"}
        assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
        assert request["EnableManagedSpotTraining"] is True
        assert "VpcConfig" not in request
        assert "KmsKeyId" not in request["OutputDataConfig"]

    def test_the_container_is_told_a_secret_s_name_alone(self, tmp_path: Path) -> None:
        request = job_request("name", sft_run(tmp_path), replace(PLACE, secret="twin/training"))
        assert request["Environment"]["TWIN_SECRET"] == "twin/training"

    def test_network_and_keys_are_passed_on(self, tmp_path: Path) -> None:
        place = replace(PLACE, subnets=("s",), security_groups=("g",), kms_key="k", volume_kms_key="v")
        request = job_request("name", sft_run(tmp_path), place)
        assert request["VpcConfig"] == {"Subnets": ["s"], "SecurityGroupIds": ["g"]}
        assert request["OutputDataConfig"]["KmsKeyId"] == "k"
        assert request["ResourceConfig"]["VolumeKmsKeyId"] == "v"

    @pytest.mark.parametrize("name", ["HF_TOKEN", "COMET_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password"])
    def test_a_secret_in_the_clear_is_refused_without_showing_it(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{name}.*SAGEMAKER_SECRET") as caught:
            replace(PLACE, environment={name: "verysecret"}).check()
        assert "verysecret" not in str(caught.value)

    def test_other_variables_are_allowed(self) -> None:
        named = {
            "HF_ENDPOINT": "https://hub",
            "MONKEY": "y",
            "TOKENIZERS_PARALLELISM": "false",
            "MAX_TOKENS": "9",
        }
        replace(PLACE, environment=named).check()

    def test_a_password_within_an_address_is_a_secret_too(self) -> None:
        with pytest.raises(ConfigurationError, match=r"MIRROR.*SAGEMAKER_SECRET") as caught:
            replace(PLACE, environment={"MIRROR": "https://me:verysecret@mirror/simple"}).check()
        assert "verysecret" not in str(caught.value)

    def test_half_a_network_and_too_short_a_wait_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="SAGEMAKER_SECURITY_GROUPS"):
            replace(PLACE, subnets=("s",)).check()
        with pytest.raises(ConfigurationError, match="SAGEMAKER_MAX_WAIT_HOURS"):
            replace(PLACE, spot=True, max_hours=3, max_wait_hours=2).check()


class TestInTheContainer:
    def test_paths_are_those_of_the_container(self, tmp_path: Path) -> None:
        folders = ContainerFolders(tmp_path)
        first = next(plan_stages(Training(training=SftRun(dataset=Path("x")), dpo=DpoRun()), folders))
        assert first.dpo is None, "DPO is asked for when SFT is done"
        assert first.training is not None
        assert first.training.dataset == folders.channel_folder("instruct")
        assert first.training.output_dir == folders.checkpoints

    def test_dpo_alone_starts_from_the_model_that_came_along(self, tmp_path: Path) -> None:
        folders = ContainerFolders(tmp_path)
        (only,) = plan_stages(Training(training=None, dpo=DpoRun()), folders)
        assert only.dpo is not None
        assert only.dpo.sft == folders.channel_folder("sft")

    def test_a_base_that_came_along_is_found_under_its_name(self, tmp_path: Path) -> None:
        folders = ContainerFolders(tmp_path / "ml")
        folders.channel_folder("base").mkdir(parents=True)
        (folders.channel_folder("base") / "tiny.gguf").write_bytes(b"x")
        work = tmp_path / "work"
        link_base("models/tiny.gguf", folders, work)
        assert (work / "models" / "tiny.gguf").read_bytes() == b"x"

    def test_a_model_that_came_back_torn_is_made_again_from_its_checkpoints(self, tmp_path: Path) -> None:
        whole = model_folder(tmp_path / "twin" / "whole")
        torn = model_folder(tmp_path / "twin" / "torn")
        (torn / "adapter" / "adapter_model.safetensors").write_bytes(b"wei")
        (torn / "checkpoints" / "checkpoint-2").mkdir(parents=True)
        assert remove_torn(tmp_path) == [torn]
        assert (whole / "model.json").is_file()
        assert {entry.name for entry in torn.iterdir()} == {"checkpoints"}

    def test_the_result_is_finished_models_without_checkpoints(self, tmp_path: Path) -> None:
        made = model_folder(tmp_path / "work" / "twin" / "done")
        (made / "checkpoints").mkdir()
        (tmp_path / "work" / "twin" / "unfinished" / "checkpoints").mkdir(parents=True)
        publish(tmp_path / "work", tmp_path / "model")
        assert {entry.name for entry in (tmp_path / "model" / "twin" / "done").iterdir()} == {
            "adapter",
            "model.json",
        }
        assert not (tmp_path / "model" / "twin" / "unfinished").exists()


class TestProcesses:
    ARGUMENTS = ("-m", "tools.run", "training")

    def test_one_gpu_or_none_is_one_process(self) -> None:
        for count in (0, 1):
            assert training_command("python", self.ARGUMENTS, Cluster(), count, Path("a.yaml")) == [
                "python",
                *self.ARGUMENTS,
            ]

    def test_several_gpus_are_started_by_accelerate(self) -> None:
        line = training_command("python", self.ARGUMENTS, Cluster(), 4, Path("a.yaml"))
        assert line[:5] == ["python", "-m", "accelerate.commands.launch", "--config_file", "a.yaml"]
        assert {"--num_processes=4", "--num_machines=1", "--machine_rank=0"} <= set(line)
        assert tuple(line[-3:]) == self.ARGUMENTS

    def test_machines_meet_at_the_first(self) -> None:
        line = training_command(
            "python", self.ARGUMENTS, Cluster(("algo-1", "algo-2"), "algo-2"), 8, Path("a.yaml")
        )
        assert {"--num_processes=16", "--machine_rank=1", "--main_process_ip=algo-1"} <= set(line)

    def test_the_platform_tells_machines_and_gpus(self, tmp_path: Path) -> None:
        told = tmp_path / "resourceconfig.json"
        assert read_cluster(told) == Cluster()
        told.write_text(json.dumps({"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}))
        assert read_cluster(told).rank == 1
        told.write_text("{}")
        with pytest.raises(ConfigurationError, match="machines"):
            read_cluster(told)
        for name in ("nvidia0", "nvidia1", "nvidiactl"):
            (tmp_path / name).touch()
        assert count_gpus({}, tmp_path) == 2
        assert count_gpus({"SM_NUM_GPUS": "8"}, tmp_path) == 8

    def test_what_processes_could_see_differently_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="dataset:"):
            check_shared(Training())
        with pytest.raises(ConfigurationError, match="two runs"):
            check_shared(Training(training=SftRun(dataset=Path("x")), dpo=DpoRun(dataset=Path("y"))))
        check_shared(Training(training=SftRun(dataset=Path("x"))))


class TestArchive:
    def archive(self, folder: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
        member.size = len(content)
        with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
            archive.addfile(member, io.BytesIO(content))
        return folder / "model.tar.gz"

    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a/b/../../../evil"])
    def test_a_path_that_leads_out_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ModelFileError, match="leads out"):
            unpack(self.archive(tmp_path, tarfile.TarInfo(name), b"x"), tmp_path / "to" / "here")
        assert not list(tmp_path.rglob("evil"))

    def test_an_absolute_path_stays_inside(self, tmp_path: Path) -> None:
        unpack(self.archive(tmp_path, tarfile.TarInfo("/etc/evil"), b"x"), tmp_path / "to")
        assert (tmp_path / "to" / "etc" / "evil").is_file()

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_what_is_neither_file_nor_folder_is_refused(self, tmp_path: Path, kind: bytes) -> None:
        member = tarfile.TarInfo("twin/abc/model.json")
        member.type, member.linkname = kind, "/etc/passwd"
        with pytest.raises(ModelFileError, match="neither file nor folder"):
            unpack(self.archive(tmp_path, member), tmp_path / "to")

    def test_a_torn_archive_is_refused(self, tmp_path: Path) -> None:
        model_folder(tmp_path / "made" / "twin" / "abc")
        (tmp_path / "model.tar.gz").write_bytes(packed(tmp_path / "made")[:200])
        with pytest.raises(ModelFileError, match="cannot be unpacked"):
            unpack(tmp_path / "model.tar.gz", tmp_path / "to")

    def test_a_half_trained_run_here_is_completed_and_keeps_its_checkpoints(self, tmp_path: Path) -> None:
        model_folder(tmp_path / "made" / "twin" / "abc")
        here = tmp_path / "trained" / "twin" / "abc"
        (here / "checkpoints").mkdir(parents=True)
        (here / "adapter").mkdir()
        assert install(tmp_path / "made", tmp_path / "trained") == [here]
        assert (here / "model.json").is_file()
        assert (here / "checkpoints").is_dir()

    def test_another_model_of_the_same_run_is_not_overwritten(self, tmp_path: Path) -> None:
        model_folder(tmp_path / "made" / "twin" / "abc")
        here = model_folder(tmp_path / "trained" / "twin" / "abc")
        manifest = json.loads((here / "model.json").read_text())
        manifest["files"]["adapter/adapter_model.safetensors"] = "1" * 64
        (here / "model.json").write_text(json.dumps(manifest))
        with pytest.raises(ModelFileError, match="other weights"):
            install(tmp_path / "made", tmp_path / "trained")

    def test_a_result_without_a_model_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="holds no model"):
            install(tmp_path, tmp_path / "trained")

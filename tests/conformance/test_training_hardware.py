"""What a training's process takes to be its machine, on one with two GPUs that torch is told of."""

import pytest

pytest.importorskip("torch", reason="the group 'training' is not installed")

import torch

from llm_engineering.infrastructure.training.trl import hardware

FREE = (1_000, 2_000)


@pytest.fixture(autouse=True)
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The current GPU, as torch keeps it for a process: the first, until another is set."""
    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: current.__setitem__(0, number))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (FREE[current[0]], 4_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: f"GPU {current[0]}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    return current


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_several_processes_measures_and_keeps_its_own_gpu(
    rank: int, current: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    found = hardware.detect()
    assert (found.name, found.free_memory, found.devices) == (f"GPU {rank}", FREE[rank], 2)
    assert current == [rank]  # where quantised weights are loaded to


def test_one_process_takes_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    found = hardware.detect()
    assert (found.free_memory, found.devices) == (FREE[0], 1)

"""On a real GPU: which devices a process sees, and forks. Each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from on_gpu import run

from checkpoints import Raw

Model = tuple[Path, dict[str, Raw]]

LOAD = """
host = ws.load(path, device="cpu")
weights = ws.load(path, device="cuda")
assert all(tensor.device == torch.device("cuda", 0) for tensor in weights.values())
assert all(torch.equal(flat(tensor).cpu(), flat(host[name])) for name, tensor in weights.items())
"""


def test_the_devices_that_torch_sees(cuda: str, model: Model) -> None:
    everything = f"{LOAD}\nprint(torch.cuda.device_count())"
    assert int(run(everything, model[0])) == torch.cuda.device_count()
    assert run(f"{LOAD}\nprint(torch.cuda.device_count())", model[0], CUDA_VISIBLE_DEVICES="0") == "1\n"
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    assert run(f"{LOAD}\nprint(torch.cuda.device_count())", model[0], CUDA_VISIBLE_DEVICES=uuid) == "1\n"


def test_no_device_that_is_hidden(cuda: str, model: Model) -> None:
    program = """
    try:
        ws.load(path, device="cuda:0")
    except ws.DeviceError as error:
        assert "cuda:0" in str(error), error
    else:
        raise AssertionError("there was a device")
    assert len(ws.load(path, device="cpu")) > 0
    """
    run(program, model[0], CUDA_VISIBLE_DEVICES="")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_an_index_counts_the_visible_devices(cuda: str, model: Model) -> None:
    program = """
    free = torch.cuda.mem_get_info(1)[0]
    weights = ws.load(path, device="cuda:1")
    host = ws.load(path, device="cpu")
    assert all(tensor.device == torch.device("cuda", 1) for tensor in weights.values())
    assert all(torch.equal(flat(tensor).cpu(), flat(host[name])) for name, tensor in weights.items())
    assert torch.cuda.memory_allocated(0) == 0
    assert torch.cuda.mem_get_info(1)[0] < free
    """
    run(program, model[0], CUDA_VISIBLE_DEVICES="1,0")


@pytest.mark.parametrize("torch_first", [True, False])
def test_one_context_whoever_comes_first(cuda: str, model: Model, torch_first: bool) -> None:
    program = """
    before = torch.ones(4, device="cuda") if TORCH_FIRST else None
    weights = ws.load(path, device="cuda")
    weight = weights["layer.0.norm"].clone()
    assert torch.equal(flat(weight), flat(weights["layer.0.norm"]))
    assert torch.cuda.memory_allocated() >= sum(tensor.nbytes for tensor in weights.values())
    """
    run(program.replace("TORCH_FIRST", str(torch_first)), model[0])


def test_a_stream_that_is_left_to_the_interpreter(cuda: str, model: Model) -> None:
    program = """
    stream = ws.stream(path, device="cuda", device_limit="16MiB", memory_limit="32MiB")
    print(next(stream)[0] != "")
    """
    assert run(program, model[0]) == "True\n"


def test_a_fork(cuda: str, model: Model) -> None:
    program = """
    import os, signal, warnings
    warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
    host = ws.load(path, device="cpu")
    stream = ws.stream(path, device="cuda", device_limit="16MiB", memory_limit="32MiB")
    first = next(stream)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            try:
                while True:
                    next(stream)
            except ws.ClosedError:
                stream.close()
            ws.release_pinned_memory()
            assert len(ws.load(path, device="cpu")) == len(host)
            try:
                ws.load(path, device="cuda")
            except ws.DeviceError:  # torch cannot use CUDA in a child of a process that did
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    weights = dict([first, *stream])
    assert sorted(weights) == sorted(host)
    assert all(torch.equal(flat(tensor).cpu(), flat(host[name])) for name, tensor in weights.items())
    """
    run(program, model[0])

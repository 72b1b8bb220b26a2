"""On a real GPU: every byte of every dtype and shape, whatever runs beside it, and tensors that are the caller's."""

from __future__ import annotations

import gc
import io
import threading
from pathlib import Path

import pytest
import torch
from on_gpu import assert_same_on, bytes_on, flat, sleep, stress
from safetensors import safe_open

import weightstream as ws
from checkpoints import DTYPES, Raw, raw, write_file

Model = tuple[Path, dict[str, Raw]]
CAST = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_as_the_safetensors_package_has_it(cuda: str, tmp_path: Path, dtype: str) -> None:
    tensors = {"matrix": raw(dtype, (6, 12), 1), "row": raw(dtype, (20,), 2), "empty": raw(dtype, (0, 4), 3)}
    tensors["deep"] = raw(dtype, (2, 3, 1, 5, 4), 4)
    tensors["large"] = raw(dtype, (1024, 80 * 1024 // DTYPES[dtype].bits), 5)  # 10 MiB: more than one read
    if DTYPES[dtype].bits >= 8:
        tensors["scalar"] = raw(dtype, (), 6)
    path = write_file(tmp_path / "m.safetensors", tensors)
    weights = ws.load(path, device=cuda)
    assert_same_on(cuda, weights, tensors)
    if dtype.startswith("F6_"):  # torch has no such dtype, and safetensors refuses
        return
    with safe_open(path, framework="pt", device=cuda) as theirs:
        for name, tensor in weights.items():
            expected = theirs.get_tensor(name)
            assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape), name
            assert tensor.stride() == expected.stride(), name
            assert torch.equal(flat(tensor), flat(expected)), name


@pytest.mark.parametrize("backend", ["auto", "uring", "pread", "gds"])
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_every_byte_arrives(cuda: str, model: Model, order: str, backend: str) -> None:
    path, tensors = model
    try:
        stream = ws.stream(path, device=cuda, order=order, backend=backend)
    except ws.ConfigError as error:
        if backend != "uring":
            raise
        pytest.skip(str(error))  # many sandboxes refuse io_uring
    got = dict(stream)
    assert_same_on(cuda, got, tensors)
    if order == "file":
        assert list(got) == list(tensors)


@pytest.mark.parametrize("misalign", [1, 4])
def test_unaligned_files(cuda: str, tmp_path: Path, misalign: int) -> None:
    tensors = {"a": raw("F32", (1 << 20,), 1), "b": raw("F64", (3,), 2), "c": raw("BF16", (7_000_001,), 3)}
    path = write_file(tmp_path / "m.safetensors", tensors, misalign=misalign)
    weights = ws.load(path, device=cuda)
    assert_same_on(cuda, weights, tensors)
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in weights.values())


def test_selected_names_single_tensors_and_slices(cuda: str, model: Model) -> None:
    path, tensors = model
    names = ["huge", "layer.3.norm", "empty", "small.F4"]
    assert_same_on(cuda, ws.load(path, device=cuda, names=names), {name: tensors[name] for name in names})
    with ws.open(path, device=cuda) as checkpoint:
        for name in ("layer.7.weight", "layer.7.norm", "scalar", "empty"):
            assert_same_on(cuda, {name: checkpoint.get_tensor(name)}, {name: tensors[name]})
        row = 4096 * 2
        assert bytes_on(checkpoint.get_slice("huge")[100:200]) == tensors["huge"].data[100 * row : 200 * row]


class TestOrderOnTheDevice:
    def test_while_the_current_stream_is_busy(self, cuda: str, model: Model) -> None:
        path, tensors = model
        with stress(cuda):
            for _ in range(3):
                assert_same_on(cuda, ws.load(path, device=cuda), tensors)
                with ws.stream(path, device=cuda, device_limit="16MiB", memory_limit="64MiB") as stream:
                    for name, tensor in stream:
                        assert bytes_on(tensor) == tensors[name].data

    def test_memory_that_a_queued_kernel_still_writes_to(self, cuda: str, model: Model) -> None:
        path, tensors = model
        first = ws.load(path, device=cuda)
        there = {tensor.data_ptr() for tensor in first.values() if tensor.numel()}
        sleep()
        for tensor in first.values():
            flat(tensor).fill_(0xEE)
        del first, tensor
        again = ws.load(path, device=cuda)  # into the same memory: the fills come first
        assert there & {tensor.data_ptr() for tensor in again.values() if tensor.numel()}
        assert_same_on(cuda, again, tensors)

    def test_memory_of_a_side_stream(self, cuda: str, model: Model) -> None:
        path, tensors = model
        side = torch.cuda.Stream(cuda)
        with torch.cuda.stream(side):
            first = ws.load(path, device=cuda)
            sleep()
            for tensor in first.values():
                flat(tensor).fill_(0xEE)
            del first, tensor
            got = {}
            with ws.stream(path, device=cuda, device_limit="16MiB") as stream:
                for name, tensor in stream:
                    got[name] = flat(tensor).clone()
                    del tensor  # its memory is the next one's
        side.synchronize()
        assert [name for name in tensors if bytes_on(got[name]) != tensors[name].data] == []

    def test_a_consumer_on_a_side_stream(self, cuda: str, model: Model) -> None:
        path, tensors = model
        side = torch.cuda.Stream(cuda)
        kept, copies = [], {}
        with stress(cuda), ws.stream(path, device=cuda, device_limit="16MiB") as stream:
            for name, tensor in stream:
                with torch.cuda.stream(side):  # waits for nothing: the bytes are there
                    copies[name] = flat(tensor).clone()
                kept.append(tensor)
            side.synchronize()
        assert [name for name in tensors if bytes_on(copies[name]) != tensors[name].data] == []

    def test_tensors_that_a_side_stream_was_recorded_on(self, cuda: str, equal_tensors: Model) -> None:
        path, tensors = equal_tensors
        side = torch.cuda.Stream(cuda)
        copies = {}
        with ws.stream(path, device=cuda, device_limit="32MiB") as stream:
            for name, tensor in stream:
                with torch.cuda.stream(side):
                    torch.cuda._sleep(10_000_000)
                    copies[name] = tensor.clone()
                tensor.record_stream(side)
        side.synchronize()
        assert [name for name in tensors if bytes_on(copies[name]) != tensors[name].data] == []


class TestTheyAreTheCallers:
    def test_storages_are_exact(self, cuda: str, model: Model) -> None:
        path, tensors = model
        weights = ws.load(path, device=cuda)
        for name, tensor in weights.items():
            storage = tensor.untyped_storage()
            assert storage.nbytes() == len(tensors[name].data), name
            assert tensor.storage_offset() == 0
            assert tensor.numel() == 0 or storage.data_ptr() == tensor.data_ptr(), name
            saved = io.BytesIO()
            torch.save(tensor, saved)
            assert len(saved.getvalue()) < len(tensors[name].data) + 4096, name
        saved = io.BytesIO()
        torch.save(weights, saved)
        nbytes = sum(len(tensor.data) for tensor in tensors.values())
        assert len(saved.getvalue()) < nbytes + 2048 * len(tensors)

    def test_kept_after_the_end_while_others_come_and_go(self, cuda: str, model: Model) -> None:
        path, tensors = model
        kept, junk = {}, []
        for round_ in range(4):
            with ws.stream(path, device=cuda, device_limit="16MiB", memory_limit="64MiB") as stream:
                for number, (name, tensor) in enumerate(stream):
                    if number % 3 == round_ % 3:
                        kept[f"{round_}.{name}"] = tensor
                    junk.append(torch.full_like(flat(tensor), 0xEE))  # often where a dropped one was
                    del junk[:-5]
        gc.collect()
        junk = [torch.full((8 << 20,), 0xEE, dtype=torch.uint8, device=cuda) for _ in range(16)]
        expected = {name: tensors[name.partition(".")[2]] for name in kept}
        assert len(kept) > len(tensors)
        assert_same_on(cuda, kept, expected)

    def test_they_may_be_changed(self, cuda: str, model: Model) -> None:
        path, tensors = model
        weights = ws.load(path, device=cuda)
        for name in ("layer.3.norm", "layer.3.weight"):
            flat(weights.pop(name)).zero_()
        assert_same_on(cuda, weights, {name: tensors[name] for name in weights})

    def test_the_file_may_go(self, cuda: str, tmp_path: Path) -> None:
        tensors = {"a": raw("U8", (9 << 20,), 1), "b": raw("U8", (9,), 2)}
        path = write_file(tmp_path / "m.safetensors", tensors)
        weights = ws.load(path, device=cuda)
        path.unlink()
        assert_same_on(cuda, weights, tensors)


class TestInto:
    def test_a_reload_in_place(self, cuda: str, tmp_path: Path, model: Model) -> None:
        path, tensors = model
        weights = ws.load(path, device=cuda)
        others = {name: Raw(tensor.dtype, tensor.shape, tensor.data[::-1]) for name, tensor in tensors.items()}
        other = write_file(tmp_path / "other.safetensors", others)
        at = {name: tensor.data_ptr() for name, tensor in weights.items()}
        torch.cuda.reset_peak_memory_stats(cuda)
        before = torch.cuda.memory_allocated(cuda)
        given = ws.load(other, device=cuda, into=weights)
        assert torch.cuda.max_memory_allocated(cuda) - before <= 1 << 20  # no second copy
        assert {name: tensor.data_ptr() for name, tensor in weights.items()} == at
        assert all(given[name] is tensor for name, tensor in weights.items())
        assert_same_on(cuda, weights, others)

    def test_after_what_the_current_stream_does_with_them(self, cuda: str, model: Model) -> None:
        path, tensors = model
        weights = ws.load(path, device=cuda)
        sleep()
        for tensor in weights.values():
            flat(tensor).fill_(0xEE)
        ws.load(path, device=cuda, into=weights)
        assert_same_on(cuda, weights, tensors)


def test_dtype_casts_floating_point_tensors(cuda: str, model: Model) -> None:
    path, _ = model
    plain = ws.load(path, device=cuda)
    for name, tensor in ws.load(path, device=cuda, dtype="float32").items():
        expected = plain[name].to(torch.float32) if plain[name].dtype in CAST else plain[name]
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape), name
        assert torch.equal(flat(tensor), flat(expected)), name


def test_the_capture_of_a_graph_by_another_thread_goes_on(cuda: str, model: Model) -> None:
    path, tensors = model
    counter = torch.zeros(8, device=cuda)
    counter.add_(1)  # loads the kernel, which a capture would not permit
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    begun, over = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def capture() -> None:
        try:
            with torch.cuda.graph(graph, capture_error_mode="global"):
                counter.add_(1)
                begun.set()
                over.wait(60)
        except RuntimeError as error:
            errors.append(error)
            begun.set()

    thread = threading.Thread(target=capture)
    thread.start()
    begun.wait(60)
    weights = ws.load(path, device=cuda)
    ws.release_pinned_memory()
    over.set()
    thread.join()
    assert errors == []
    graph.replay()
    assert counter.tolist() == [2] * 8
    assert_same_on(cuda, weights, tensors)

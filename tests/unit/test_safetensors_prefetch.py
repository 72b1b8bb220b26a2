"""safe_open.prefetch: a loader that hands each tensor out once, by name or as it arrives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file, write_shards
from weightstream.safetensors import PrefetchLoader, safe_open

MIB = 2**20
pytestmark = pytest.mark.usefixtures("no_leaks")
Model = tuple[Path, dict[str, Raw]]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    tensors = blocks(20, MIB // 4) | {
        "matrix": raw("F32", (100, 70), 1000),
        "scalar": raw("F64", (), 1001),
        "empty": raw("F32", (0, 3), 1002),
        "packed": raw("F4", (6, 4), 1003),
        "sixths": raw("F6_E2M3", (8, 4), 1004),
        "half_bytes": raw("F4", (4, 3), 1005),
    }
    return write_file(tmp_path / "m.safetensors", tensors), tensors


def wanted(model: Model) -> dict[str, Raw]:
    return {name: tensor for name, tensor in model[1].items() if name not in ("sixths", "half_bytes")}


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_iterating_brings_every_planned_tensor(model: Model, framework: str) -> None:
    plan = dict.fromkeys(wanted(model))
    with safe_open(model[0], framework) as handle, handle.prefetch(plan) as loader:
        assert loader.names() == list(plan)
        assert len(loader) == len(plan)
        assert_same(iter(loader), wanted(model))
        assert list(loader) == []


def test_without_a_plan_it_is_everything(tmp_path: Path) -> None:
    tensors = blocks(5, 1000)
    handle = safe_open(write_file(tmp_path / "m.safetensors", tensors), "pt")
    loader = handle.prefetch()
    assert isinstance(loader, PrefetchLoader)
    assert loader.names() == handle.offset_keys()
    assert_same(iter(loader), tensors)
    loader.close()


def test_taking_by_name_in_any_order(model: Model) -> None:
    with safe_open(model[0], "pt") as handle, handle.prefetch(dict.fromkeys(wanted(model))) as loader:
        assert_same({name: loader.take(name) for name in reversed(loader.names())}, wanted(model))


def test_each_is_handed_out_once(model: Model) -> None:
    with safe_open(model[0], "pt") as handle, handle.prefetch(dict.fromkeys(wanted(model))) as loader:
        loader.take("t007")
        with pytest.raises(safetensors.SafetensorError, match="already delivered"):
            loader.take("t007")
        rest = dict(loader)
        assert sorted(rest) == sorted(set(wanted(model)) - {"t007"})
        with pytest.raises(safetensors.SafetensorError, match="already delivered"):
            loader.take("t001")


def test_names_that_are_not_planned(model: Model) -> None:
    with safe_open(model[0], "pt") as handle, handle.prefetch({"t001": None}) as loader:
        for name in ("t002", "nothing"):
            with pytest.raises(safetensors.SafetensorError, match=f"{name} is not in the prefetch plan"):
                loader.take(name)
        assert bytes_of(loader.take("t001")) == model[1]["t001"].data


ROWS = [slice(10, 20), slice(None), slice(90, None), slice(None, 3), slice(-5, None), slice(7, 3), slice(0, 100, 1)]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows(model: Model, rows: slice) -> None:
    whole = torch.frombuffer(bytearray(model[1]["matrix"].data), dtype=torch.float32).view(100, 70)
    with safe_open(model[0], "pt") as handle, handle.prefetch({"matrix": rows, "t003": None}) as loader:
        part = loader.take("matrix")
        assert bytes_of(part) == bytes_of(whole[rows])
        assert part.shape == whole[rows].shape
        assert part.untyped_storage().nbytes() == part.nbytes
        assert bytes_of(loader.take("t003")) == model[1]["t003"].data


def test_packed_rows(model: Model) -> None:
    with safe_open(model[0], "pt") as handle, handle.prefetch({"packed": slice(2, 4)}) as loader:
        part = loader.take("packed")
        assert part.dtype == torch.float4_e2m1fn_x2
        assert part.shape == (2, 2)
        assert bytes_of(part) == model[1]["packed"].data[4:8]


PLANS: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown": ({"nothing": None}, safetensors.SafetensorError, "File does not contain tensor nothing"),
    "a-list": (["t001"], TypeError, "'list' object is not an instance of 'dict'"),
    "no-names": ({3: None}, TypeError, "'int' object is not an instance of 'str'"),
    "nothing": ({}, safetensors.SafetensorError, "prefetch plan selects no tensors"),
    "a-step": ({"t001": slice(0, 4, 2)}, safetensors.SafetensorError, "must have step 1, got 2 for t001"),
    "a-number": ({"t001": 3}, safetensors.SafetensorError, "must be None or a slice, got <class 'int'> for t001"),
    "a-scalar": ({"scalar": slice(0, 1)}, safetensors.SafetensorError, "cannot slice rows of the 0-d tensor scalar"),
    "too-far": ({"matrix": slice(3, 101)}, safetensors.SafetensorError, "stop 101 for matrix is out of range for 100"),
    "no-number": ({"matrix": slice(0, 1.5)}, safetensors.SafetensorError, "slice bounds for matrix"),
    "half-bytes": ({"half_bytes": slice(0, 1)}, safetensors.SafetensorError, "f4_x2 dtype requires"),
    "no-dtype": ({"sixths": None}, safetensors.SafetensorError, "Dtype not understood: F6_E2M3"),
}


@pytest.mark.parametrize(("plan", "kind", "message"), PLANS.values(), ids=PLANS)
def test_plans_that_cannot_work(model: Model, plan: Any, kind: type[Exception], message: str) -> None:
    with safe_open(model[0], "pt") as handle, pytest.raises(kind, match=message):
        handle.prefetch(plan)


def test_arguments(model: Model) -> None:
    handle = safe_open(model[0], "pt")
    with pytest.raises(OverflowError):
        handle.prefetch({"t001": None}, threads=-1)
    with pytest.raises(safetensors.SafetensorError, match="device x is invalid"):
        handle.prefetch({"t001": None}, device="x")
    with pytest.raises(TypeError):
        handle.prefetch({"t001": None}, "cpu")
    with handle.prefetch({"t001": None}, device="cpu", threads=2) as loader:
        assert bytes_of(loader.take("t001")) == model[1]["t001"].data
    handle.__exit__(None, None, None)
    with pytest.raises(safetensors.SafetensorError, match="File is closed"):
        handle.prefetch()


def test_it_goes_on_when_the_handle_is_closed(model: Model) -> None:
    with safe_open(model[0], "pt") as handle:
        loader = handle.prefetch(dict.fromkeys(wanted(model)))
    assert_same(iter(loader), wanted(model))


def test_closing_ends_it(model: Model, no_leaks: Callable[[], None]) -> None:
    handle = safe_open(model[0], "pt")
    loader = handle.prefetch(dict.fromkeys(wanted(model)))
    kept = loader.take("t001")
    loader.close()
    loader.close()
    assert bytes_of(kept) == model[1]["t001"].data
    for call in (lambda: loader.take("t002"), lambda: next(iter(loader))):
        with pytest.raises(ws.ClosedError, match="prefetch loader closed"):
            call()
    handle.__exit__(None, None, None)
    no_leaks()


def test_threads_share_a_loader(model: Model) -> None:
    names = list(wanted(model))
    with safe_open(model[0], "pt") as handle, handle.prefetch(dict.fromkeys(names)) as loader:
        arrived: dict[str, Any] = {}
        iterating = threading.Thread(target=lambda: arrived.update(loader))
        iterating.start()
        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(lambda name: _take(loader, name), names[::2]))
        iterating.join()
        arrived.update((name, tensor) for name, tensor in taken if tensor is not None)
        assert_same(arrived, wanted(model))


def _take(loader: PrefetchLoader, name: str) -> tuple[str, Any]:
    try:
        return name, loader.take(name)
    except safetensors.SafetensorError as error:
        if "already delivered" not in str(error):
            raise
        return name, None


def test_a_file_that_ends_early(model: Model) -> None:
    handle = safe_open(model[0], "pt")
    with model[0].open("r+b") as file:
        file.truncate(2 * MIB)
    loader = handle.prefetch(dict.fromkeys(wanted(model)))
    for _ in range(2):
        with pytest.raises(safetensors.SafetensorError) as caught:
            list(loader)
        assert isinstance(caught.value, (ws.TruncatedError, ws.SourceChangedError))
    with pytest.raises(safetensors.SafetensorError):
        loader.take("t019")
    loader.close()


def test_several_files_as_one(tmp_path: Path) -> None:
    shards = {f"model-{i}.safetensors": blocks(3, 5000, 10 * i) for i in range(3)}
    shards = {file: {f"{file[6]}.{name}": t for name, t in tensors.items()} for file, tensors in shards.items()}
    folder = write_shards(tmp_path / "model", shards, "model.safetensors.index.json")
    everything = {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}
    with safe_open(folder, "pt") as handle:
        with handle.prefetch() as loader:
            assert_same(iter(loader), everything)
        meta = handle.get_tensor_meta("1.t001")
        assert (meta.dtype, meta.shape, meta.data_offsets) == ("U8", [5000], (5000, 10_000))
        with pytest.raises(safetensors.SafetensorError, match="File does not contain tensor x"):
            handle.get_tensor_meta("x")

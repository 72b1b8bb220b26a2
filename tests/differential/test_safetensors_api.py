"""safe_open and its handle: what the safetensors package returns and raises, weightstream returns and raises.

Deliberate differences are in docs/guides/safetensors.md, and each has a test of its own here.
"""

from __future__ import annotations

import copy
import inspect
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file

import weightstream as ws
from checkpoints import Raw, write_file
from differential.handles import OURS, THEIRS, outcome
from malformed.cases import REJECTED, Case
from weightstream.safetensors import safe_open

Saved = tuple[Path, dict[str, torch.Tensor]]
BACKENDS = ["mmap", "pread"]
FRAMEWORKS = ["pt", "torch", "pytorch", "np", "numpy"]


def both(path: Path, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
    return THEIRS(path, *arguments, **keywords), OURS(path, *arguments, **keywords)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["keys", "offset_keys", "metadata"])
def test_headers(saved: Saved, framework: str, backend: str, method: str) -> None:
    theirs, ours = both(saved[0], framework, backend=backend)
    assert getattr(ours, method)() == getattr(theirs, method)()


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_metadata_is_none_only_where_there_is_none(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = write_file(tmp_path / "m.safetensors", {"a": Raw("U8", (1,), b"1")}, metadata)
    theirs, ours = both(path, "pt")
    assert ours.metadata() == theirs.metadata() == metadata


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_tensor(saved: Saved, backend: str) -> None:
    theirs, ours = both(saved[0], "pt", backend=backend)
    for name in saved[1]:
        assert outcome(lambda name=name: ours.get_tensor(name)) == outcome(lambda name=name: theirs.get_tensor(name))
        theirs_slice, ours_slice = theirs.get_slice(name), ours.get_slice(name)
        assert ours_slice.get_shape() == theirs_slice.get_shape()
        assert ours_slice.get_dtype() == theirs_slice.get_dtype()
    assert outcome(ours.get_tensors) == outcome(theirs.get_tensors)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tensors", [{}, {"e": Raw("F32", (0,), b"")}], ids=["no-tensors", "only-empty"])
def test_files_without_data(tmp_path: Path, tensors: dict[str, Raw], backend: str) -> None:
    path = write_file(tmp_path / "m.safetensors", tensors)
    theirs, ours = both(path, "pt", backend=backend)
    assert ours.keys() == theirs.keys()
    assert outcome(ours.get_tensors) == outcome(theirs.get_tensors)


FOR_EVERYONE: dict[str, Any] = {
    "framework-unknown": {"framework": "PT"},
    "framework-none": {"framework": None},
    "framework-int": {"framework": 3},
    "backend-unknown": {"backend": "x"},
    "backend-none": {"backend": None},
    "device-unknown": {"device": "disk"},
    "device-meta": {"device": "meta"},
    "device-cpu-with-index": {"device": "cpu:0"},
    "device-upper-case": {"device": "CPU"},
    "device-digits": {"device": "0"},
    "device-empty": {"device": ""},
    "device-negative": {"device": -1},
    "device-float": {"device": 1.5},
    "device-bad-index": {"device": "cuda:x"},
    "device-negative-index": {"device": "cuda:-1"},
    "device-no-index": {"device": "cuda:"},
    "device-none": {"device": None},
    "numpy-on-cuda": {"device": "cuda", "framework": "np"},
    "numpy-on-mps": {"device": "mps", "framework": "np"},
    "numpy-on-an-index": {"device": 1, "framework": "numpy"},
    "cuda": {"device": "cuda"},
    "cuda-with-index": {"device": "cuda:3"},
    "an-index": {"device": 2},
    "bool": {"device": True},
    "xpu": {"device": "xpu:1"},
    "filename-bytes": {"filename": b"x"},
    "filename-int": {"filename": 3},
}


@pytest.mark.parametrize("arguments", FOR_EVERYONE.values(), ids=FOR_EVERYONE)
def test_arguments(saved: Saved, arguments: dict[str, Any]) -> None:
    given = {"filename": saved[0], "framework": "pt", **arguments}
    assert outcome(lambda: OURS(**given)) == outcome(lambda: THEIRS(**given))


def test_the_signature_takes_what_theirs_takes() -> None:
    theirs, ours = (inspect.signature(what).parameters for what in (THEIRS, OURS))
    assert [(p.name, p.kind) for p in ours.values()] == [(p.name, p.kind) for p in theirs.values()]
    for wrong in ((), ("x",), ("x", "pt", "cpu", "mmap")):
        assert outcome(lambda wrong=wrong: OURS(*wrong), message=False) is TypeError


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors") as caught:
        safe_open(tmp_path / "gone.safetensors", "pt")
    assert not isinstance(caught.value, safetensors.SafetensorError)  # theirs is none either
    assert isinstance(caught.value, ws.NotFoundError)


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: case.id)
def test_what_is_no_valid_file(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(case.content)
    with pytest.raises(safetensors.SafetensorError, match="Error while deserializing header") as caught:
        safe_open(path, "pt")
    assert isinstance(caught.value, ws.FormatError)
    assert str(path) in str(caught.value)
    assert type(caught.value.__cause__) is ws.FormatError
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("method", ["get_tensor", "get_slice"])
@pytest.mark.parametrize("name", ["nothing", 3, None, b"scale"], ids=repr)
def test_names_that_are_none(saved: Saved, method: str, name: Any) -> None:
    theirs, ours = both(saved[0], "pt")
    assert outcome(lambda: getattr(ours, method)(name)) == outcome(lambda: getattr(theirs, method)(name))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["keys", "offset_keys", "metadata", "get_tensors"])
def test_a_closed_handle(saved: Saved, method: str, backend: str) -> None:
    theirs, ours = both(saved[0], "pt", backend=backend)
    for handle in (theirs, ours):
        with handle as entered:
            assert entered is handle
            kept = handle.get_tensor("scale")
            part = handle.get_slice("big")
        assert kept.item() == 0.1875
        assert torch.equal(part[3:5], saved[1]["big"][3:5])  # a slice outlives its handle
        assert part.get_shape() == [700, 800]
        assert handle.__exit__(None, None, None) is None
    assert outcome(getattr(ours, method)) == outcome(getattr(theirs, method))
    for one in ("scale", "nothing"):
        assert outcome(lambda one=one: ours.get_tensor(one)) == outcome(lambda one=one: theirs.get_tensor(one))
        assert outcome(lambda one=one: ours.get_slice(one)) == outcome(lambda one=one: theirs.get_slice(one))
    with pytest.raises(ws.ClosedError):
        ours.keys()


def test_a_handle_is_no_mapping_and_cannot_be_copied(saved: Saved) -> None:
    for handle in both(saved[0], "pt"):
        for call in (len, iter, pickle.dumps, copy.copy, lambda one: one["scale"], lambda one: "scale" in one):
            assert outcome(lambda call=call, handle=handle: call(handle), message=False) is TypeError


@pytest.mark.parametrize("backend", BACKENDS)
def test_storages(saved: Saved, backend: str) -> None:
    theirs, ours = both(saved[0], "pt", backend=backend)
    for name in saved[1]:
        one, other = theirs.get_tensor(name), ours.get_tensor(name)
        for tensor in (one, other):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
            assert tensor.storage_offset() == 0
            assert tensor.is_contiguous()
            assert not tensor.requires_grad
        # Within the digits of an address, by which torch names a storage.
        assert abs(len(pickle.dumps(other)) - len(pickle.dumps(one))) <= 8
        assert _saved_size(other) == _saved_size(one)


def _saved_size(tensor: torch.Tensor) -> int:
    file = io.BytesIO()
    torch.save(tensor, file)
    return len(file.getvalue())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("framework", ["pt", "np"])
def test_tensors_are_writable_and_the_file_stays(tmp_path: Path, backend: str, framework: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.arange(5000), "b": torch.arange(5000)}, path)
    before = path.read_bytes()
    for handle in both(path, framework, backend=backend):
        tensor, part = handle.get_tensor("a"), handle.get_slice("b")[10:20]
        tensor += 1
        part += 1
        assert int(tensor[10]) == int(part[0]) == 11
    assert path.read_bytes() == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("framework", ["pt", "np"])
def test_each_is_the_callers_own(tmp_path: Path, backend: str, framework: str) -> None:
    # With torch, safetensors gives everyone who asks for a tensor of one mapping the same memory.
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.arange(6000).reshape(60, 100)}, path)
    handle = safe_open(path, framework, backend=backend)
    part = handle.get_slice("a")
    for _ in range(2):
        tensors = [handle.get_tensor("a"), part[:], part[10:20], part[10:20], part[:, 3:5], part[::2]]
        tensors += [part[None]] if framework == "pt" else []
        for tensor in tensors:
            assert int(tensor.reshape(-1)[0]) in (0, 3, 1000)
            tensor[...] = -1
    assert int(handle.get_tensor("a").sum()) == sum(range(6000))


def test_what_torch_has_no_dtype_for(all_dtypes: tuple[Path, dict[str, Raw]], tmp_path: Path) -> None:
    odd = write_file(tmp_path / "odd.safetensors", {"F4.odd": Raw("F4", (2, 3, 1), b"123")})
    for path, names in ((all_dtypes[0], [name for name in all_dtypes[1] if name.startswith("F6")]), (odd, ["F4.odd"])):
        theirs, ours = both(path, "pt")
        for name in names:
            if name.endswith("empty"):
                continue
            assert outcome(lambda n=name, h=ours: h.get_tensor(n)) == outcome(lambda n=name, h=theirs: h.get_tensor(n))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_dtype_of_torch(all_dtypes: tuple[Path, dict[str, Raw]], backend: str) -> None:
    path, tensors = all_dtypes
    theirs, ours = both(path, "pt", backend=backend)
    compared = 0
    for name in tensors:
        if name.startswith("F6"):
            continue
        expected = outcome(lambda name=name: theirs.get_tensor(name))
        if expected[0] in (RuntimeError, NotImplementedError):  # theirs cannot read what is packed with pread
            assert name.startswith("F4")
            expected = outcome(lambda name=name: THEIRS(path, "pt").get_tensor(name))
        assert outcome(lambda name=name: ours.get_tensor(name)) == expected, name
        assert outcome(lambda name=name: ours.get_slice(name)[...]) == expected, name
        compared += 1
    assert compared > 70


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_dtype_of_numpy(all_dtypes: tuple[Path, dict[str, Raw]], backend: str) -> None:
    path, tensors = all_dtypes
    theirs, ours = both(path, "np", backend=backend)
    more = set()
    for name, tensor in tensors.items():
        expected = outcome(lambda name=name: theirs.get_tensor(name))
        if expected[0] in (AttributeError, TypeError):  # of numpy: it has no such dtype, but ml_dtypes has
            more.add(tensor.dtype)
            assert ours.get_tensor(name).tobytes() == tensor.data
        else:
            assert outcome(lambda name=name: ours.get_tensor(name)) == expected, name
    assert more <= {"BF16", "F4", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def test_other_frameworks_are_left_to_the_safetensors_package(saved: Saved) -> None:
    handle = safe_open(saved[0], framework="tf")
    assert type(handle) is THEIRS
    assert outcome(lambda: safe_open(saved[0], framework="flax")) == outcome(lambda: THEIRS(saved[0], framework="flax"))


def test_a_torch_device_is_taken_too(saved: Saved) -> None:
    handle = safe_open(saved[0], "pt", device=torch.device("cpu"))
    assert torch.equal(handle.get_tensor("big"), saved[1]["big"])
    with pytest.raises(safetensors.SafetensorError, match="device meta is invalid"):
        safe_open(saved[0], "pt", device=torch.device("meta"))


def test_a_device_that_is_not_there_is_an_error_at_the_first_tensor(saved: Saved) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    handle = safe_open(saved[0], "pt", device="cuda:0")
    assert len(handle.keys()) == len(saved[1])
    for call in (lambda: handle.get_tensor("big"), handle.get_tensors, lambda: handle.get_slice("big")[:2]):
        with pytest.raises(RuntimeError) as caught:
            call()
        assert isinstance(caught.value, safetensors.SafetensorError)
        assert isinstance(caught.value, ws.DeviceError)


def test_unaligned_data_comes_out_aligned(tmp_path: Path) -> None:
    tensors = {"x": Raw("U8", (1,), b"1"), "y": Raw("F32", (2,), np.arange(2, dtype=np.float32).tobytes())}
    path = write_file(tmp_path / "m.safetensors", tensors)
    for framework in ("pt", "np"):
        for backend in BACKENDS:
            tensor = safe_open(path, framework, backend=backend).get_tensor("y")
            address = tensor.data_ptr() if framework == "pt" else tensor.ctypes.data
            assert address % 4 == 0
            assert tensor.tolist() == [0.0, 1.0]


def test_the_tensors_of_a_handle_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.arange(100_000)}, path)
    with safe_open(path, "pt", backend="pread") as handle:
        tensor = handle.get_tensor("a")
    os.truncate(path, 0)
    assert torch.equal(tensor, torch.arange(100_000))

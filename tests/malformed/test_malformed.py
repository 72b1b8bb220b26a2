"""Every malformed file is refused with the exact words that its case gives, and every unusual valid one is read."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import weightstream as ws

from .cases import ACCEPTED, ACCEPTED_HEADERS, REJECTED, Case, file

DTYPES = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def case_id(case: Case) -> str:
    return case.id


def test_cases_have_names_of_their_own() -> None:
    ids = [case.id for case in REJECTED + ACCEPTED + ACCEPTED_HEADERS]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("case", REJECTED, ids=case_id)
def test_open_says_what_is_wrong(path: Path, case: Case) -> None:
    path.write_bytes(case.content)
    with pytest.raises(ws.FormatError) as raised:
        ws.open(path)
    assert raised.value.message == case.message
    assert raised.value.source == str(path)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("case", REJECTED, ids=case_id)
def test_load_says_what_is_wrong(path: Path, case: Case) -> None:
    path.write_bytes(case.content)
    with pytest.raises(ws.FormatError) as raised:
        ws.load(path, framework="numpy")
    assert raised.value.message == case.message
    assert raised.value.source == str(path)


@pytest.mark.parametrize("case", ACCEPTED, ids=case_id)
def test_unusual_files_are_read(path: Path, case: Case) -> None:
    path.write_bytes(case.content)
    with ws.open(path) as ckpt:
        infos = dict(ckpt)
    weights = ws.load(path, framework="numpy")
    assert list(weights) == list(infos)
    for name, info in infos.items():
        begin, end = info.range
        assert weights[name].shape == info.shape
        assert weights[name].tobytes() == case.content[begin:end]


@pytest.mark.parametrize("case", ACCEPTED_HEADERS, ids=case_id)
def test_headers_are_read_whatever_frameworks_can_hold(path: Path, case: Case) -> None:
    path.write_bytes(case.content)
    with ws.open(path) as ckpt:
        assert ckpt["w"].nbytes == 0


@pytest.mark.parametrize(("dtype", "bits"), DTYPES.items())
def test_headers_of_every_dtype_are_accepted(path: Path, dtype: str, bits: int) -> None:
    size = 8 * bits // 8
    path.write_bytes(file(b'{"w":{"dtype":"%s","shape":[2,4],"data_offsets":[0,%d]}}' % (dtype.encode(), size), size))
    with ws.open(path) as ckpt:
        assert ckpt["w"].dtype == dtype
        assert ckpt["w"].shape == (2, 4)
        assert ckpt["w"].nbytes == size


def test_unaligned_tensors_are_handed_out_aligned(path: Path) -> None:
    values = np.arange(3, dtype=np.float64)
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[3],"data_offsets":[1,25]}}'
    )
    path.write_bytes(file(header) + b"\x07" + values.tobytes())
    weights = ws.load(path, framework="numpy")
    assert weights["b"].flags.aligned
    assert weights["b"].ctypes.data % 8 == 0
    np.testing.assert_array_equal(weights["b"], values)


def test_numbers_are_attributes(path: Path) -> None:
    path.write_bytes(file(b'{"w":{"dtype":"U8","shape":[40],"data_offsets":[0,40]}}', 20))
    with pytest.raises(ws.FormatError) as raised:
        ws.open(path)
    error = pickle.loads(pickle.dumps(raised.value))
    assert (error.expected, error.got) == (8 + 55 + 40, 8 + 55 + 20)


def test_the_source_at_fault_is_named_among_many(tmp_path: Path) -> None:
    good = file(b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)
    (tmp_path / "a.safetensors").write_bytes(good)
    (tmp_path / "b.safetensors").write_bytes(good.replace(b'"w"', b'"v"')[:-1])
    with pytest.raises(ws.FormatError) as raised:
        ws.open([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert raised.value.source == str(tmp_path / "b.safetensors")
    assert raised.value.message == "data of 'v' ends at byte 62 but the file has 61 bytes: 1 byte is missing"

"""Small checkpoints for the tests of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "a.weight": np.arange(1000, dtype=np.float32).reshape(10, 100),
        "a.bias": np.arange(10, dtype=np.float32),
        "b.weight": np.arange(3000, dtype=np.int64),
        "b.bias": np.zeros((), dtype=np.float16),
    }
    save_file(tensors, path, metadata={"format": "pt", "license": "none"})
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_file({"x": np.ones(4, np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file({"y": np.ones((2, 3), np.int8)}, folder / "model-00002-of-00002.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder

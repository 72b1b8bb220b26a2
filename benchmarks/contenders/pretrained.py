"""transformers: from_pretrained of a Llama, by its own loader or with weightstream in place of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.contenders.base import Loader

_HEAD = 128  # elements of one attention head
_EMBEDDING = "model.embed_tokens.weight"


class Contender(Loader):
    package = "transformers"
    # Whoever uses the model needs its pages, and transformers' own loader leaves them in the file.
    touches_needed = True

    def __init__(self, *, weightstream: bool) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        if weightstream:
            from weightstream.integrations.transformers import from_pretrained

            self._from_pretrained: Any = from_pretrained
        else:
            self._from_pretrained = transformers.LlamaForCausalLM.from_pretrained
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self._prepared: dict[tuple[str, ...], str] = {}

    def prepare(self, locations: Sequence[str]) -> None:
        """A folder as a download leaves it: the configuration beside the weights."""
        self._folders.append(tempfile.TemporaryDirectory(prefix="benchmark-model-"))
        folder = Path(self._folders[-1].name)
        for location in locations:
            (folder / Path(location).name).symlink_to(Path(location).resolve())
        (folder / "config.json").write_text(json.dumps(_configuration(locations)))
        if len(locations) > 1:
            (folder / "model.safetensors.index.json").write_text(json.dumps(_index(locations)))
        self._prepared[tuple(locations)] = str(folder)

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        folder = self._prepared.get(tuple(locations)) or self._tiny()  # the primer, which is no Llama
        model = self._from_pretrained(folder)
        yield from model.state_dict().items()

    def close(self) -> None:
        while self._folders:
            self._folders.pop().cleanup()

    def _tiny(self) -> str:
        self._folders.append(tempfile.TemporaryDirectory(prefix="benchmark-model-"))
        path = Path(self._folders[-1].name, "model.safetensors")
        sizes = {"hidden_size": _HEAD, "intermediate_size": 64, "vocab_size": 64, "num_hidden_layers": 2}
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1)).bfloat16()
        save_file(model.state_dict(), path, metadata={"format": "pt"})
        self.prepare([str(path)])
        return self._prepared[(str(path),)]


def _shapes(locations: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
    """The file and the shape of each tensor."""
    found = {}
    for location in locations:
        with safe_open(location, framework="pt") as file:
            for name in file.offset_keys():
                found[name] = (Path(location).name, file.get_slice(name).get_shape())
    return found


def _configuration(locations: Sequence[str]) -> dict[str, Any]:
    shapes = {name: shape for name, (_, shape) in _shapes(locations).items()}
    vocabulary, hidden = shapes[_EMBEDDING]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": shapes["model.layers.0.mlp.up_proj.weight"][0],
        "num_hidden_layers": sum(name.endswith(".q_proj.weight") for name in shapes),
        "num_attention_heads": shapes["model.layers.0.self_attn.q_proj.weight"][0] // _HEAD,
        "num_key_value_heads": shapes["model.layers.0.self_attn.k_proj.weight"][0] // _HEAD,
        "head_dim": _HEAD,
        "tie_word_embeddings": False,
    }


def _index(locations: Sequence[str]) -> dict[str, Any]:
    return {"metadata": {}, "weight_map": {name: file for name, (file, _) in _shapes(locations).items()}}

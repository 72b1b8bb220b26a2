"""The shapes of the test checkpoints: which tensors there are, in which files, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

BF16_BYTES = 2


@dataclass(frozen=True)
class TensorSpec:
    """One bf16 tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BF16_BYTES


@dataclass(frozen=True)
class FileSpec:
    """One safetensors file: its name and its tensors in file order."""

    name: str
    tensors: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Layout:
    """A checkpoint: one file, or several with an index."""

    name: str
    files: tuple[FileSpec, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def tensor_count(self) -> int:
        return sum(len(file.tensors) for file in self.files)


@dataclass(frozen=True)
class LlamaShape:
    """The sizes that decide every tensor shape of a Llama model."""

    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int
    layers: int


LLAMA_8B = LlamaShape(hidden=4096, intermediate=14336, key_value=1024, vocabulary=128256, layers=32)
LLAMA_8B_FIVE_LAYERS = LlamaShape(hidden=4096, intermediate=14336, key_value=1024, vocabulary=128256, layers=5)
LLAMA_8B_TEN_LAYERS = LlamaShape(hidden=4096, intermediate=14336, key_value=1024, vocabulary=128256, layers=10)
LLAMA_TINY = LlamaShape(hidden=512, intermediate=1792, key_value=128, vocabulary=16032, layers=5)


def llama_tensors(shape: LlamaShape) -> tuple[TensorSpec, ...]:
    """Every tensor of a Llama model, in the order of a published checkpoint: layer by layer, names sorted inside."""

    def tensors() -> Iterator[TensorSpec]:
        yield TensorSpec("model.embed_tokens.weight", (shape.vocabulary, shape.hidden))
        for layer in range(shape.layers):
            prefix = f"model.layers.{layer}"
            yield TensorSpec(f"{prefix}.input_layernorm.weight", (shape.hidden,))
            yield TensorSpec(f"{prefix}.mlp.down_proj.weight", (shape.hidden, shape.intermediate))
            yield TensorSpec(f"{prefix}.mlp.gate_proj.weight", (shape.intermediate, shape.hidden))
            yield TensorSpec(f"{prefix}.mlp.up_proj.weight", (shape.intermediate, shape.hidden))
            yield TensorSpec(f"{prefix}.post_attention_layernorm.weight", (shape.hidden,))
            yield TensorSpec(f"{prefix}.self_attn.k_proj.weight", (shape.key_value, shape.hidden))
            yield TensorSpec(f"{prefix}.self_attn.o_proj.weight", (shape.hidden, shape.hidden))
            yield TensorSpec(f"{prefix}.self_attn.q_proj.weight", (shape.hidden, shape.hidden))
            yield TensorSpec(f"{prefix}.self_attn.v_proj.weight", (shape.key_value, shape.hidden))
        yield TensorSpec("model.norm.weight", (shape.hidden,))
        yield TensorSpec("lm_head.weight", (shape.vocabulary, shape.hidden))

    return tuple(tensors())


def layers_only(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Without the embedding and the head: no tensor is larger than a memory limit of 256 MiB then."""
    return tuple(tensor for tensor in tensors if ".layers." in tensor.name)


def in_shards(tensors: tuple[TensorSpec, ...], shard_bytes: int) -> tuple[FileSpec, ...]:
    """Cut a list of tensors into shards of at most `shard_bytes`, named as published checkpoints name theirs."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return tuple(
        FileSpec(f"model-{number:05d}-of-{len(shards):05d}.safetensors", tuple(shard))
        for number, shard in enumerate(shards, start=1)
    )


def adapter_tensors(count: int) -> tuple[TensorSpec, ...]:
    """`count` small tensors of 16-33 kB, as adapters of many experts have; most start at odd file offsets."""
    shapes = (("lora_A", (16, 1024)), ("lora_B", (1024, 16)), ("norm", (8192,)), ("scales", (9, 949)))
    return tuple(
        TensorSpec(f"model.layers.{index // 1000}.experts.{index // 4 % 250}.{name}.{index % 4}.weight", shape)
        for index in range(count)
        for name, shape in (shapes[index % len(shapes)],)
    )


def speck_tensors(count: int) -> tuple[TensorSpec, ...]:
    """`count` tensors of 512 bytes: their bytes cost next to nothing, what is left is the work per tensor."""
    return tuple(TensorSpec(f"model.layers.{index // 1000}.{index % 1000}.scale", (256,)) for index in range(count))


def layouts(*, tiny: bool, layers: int = LLAMA_8B.layers) -> dict[str, Layout]:
    """Every checkpoint that scenarios use, by name; `tiny` gives stand-ins of the same structure that take seconds.

    `layers`: how many layers of Llama 8B "llama-file" has; 2.1 GB and 0.44 GB a layer.
    """
    in_one_file = LLAMA_TINY if tiny else replace(LLAMA_8B, layers=layers)
    shard_bytes = 18_000_000 if tiny else 5_000_000_000
    small = 2_000 if tiny else 40_000
    found = (
        Layout(
            "llama-4gb", (FileSpec("model.safetensors", llama_tensors(LLAMA_TINY if tiny else LLAMA_8B_FIVE_LAYERS)),)
        ),
        Layout(
            "llama-layers",
            (FileSpec("model.safetensors", layers_only(llama_tensors(LLAMA_TINY if tiny else LLAMA_8B_TEN_LAYERS))),),
        ),
        Layout("llama-8b", in_shards(llama_tensors(LLAMA_TINY if tiny else LLAMA_8B), shard_bytes)),
        Layout("llama-file", (FileSpec("model.safetensors", llama_tensors(in_one_file)),)),
        Layout("small-tensors", (FileSpec("model.safetensors", adapter_tensors(small)),)),
        Layout("specks", (FileSpec("model.safetensors", speck_tensors(small)),)),
        Layout("primer", (FileSpec("model.safetensors", adapter_tensors(8)),)),
    )
    prefix = "tiny-" if tiny else ""
    return {layout.name: Layout(prefix + layout.name, layout.files) for layout in found}

"""What is measured: which checkpoint, in which state of the page cache, by which contenders."""

from __future__ import annotations

from dataclasses import dataclass

KEEP, DROP = True, False

_EVERYONE = (
    "weightstream",
    "weightstream-pread",
    "safetensors",
    "safetensors-load-file",
    "safetensors-pread",
    "safetensors-next",
    "safetensors-next-pread",
    "runai",
    "fastsafetensors",
    "tensorizer",
)


@dataclass(frozen=True)
class Scenario:
    """One question and the runs that answer it."""

    name: str
    question: str
    data: str
    """Name of the layout."""
    cache: str
    """ "cold" or "warm". """
    contenders: tuple[str, ...]
    baseline: str
    """The contender to which the others are compared."""
    consumer_keeps: bool = KEEP
    per_tensor: bool = False
    """Report microseconds a tensor rather than gigabytes a second."""
    sample_memory: bool = False


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="cold-cpu",
            question="How fast does one file come from the disk into CPU memory?",
            data="llama-4gb",
            cache="cold",
            contenders=("fio", *_EVERYONE[:1], "weightstream-uring", *_EVERYONE[1:]),
            baseline="safetensors",
        ),
        Scenario(
            name="warm-cpu",
            question="How fast does one file come from the page cache into CPU memory?",
            data="llama-4gb",
            cache="warm",
            contenders=_EVERYONE,
            baseline="safetensors-pread",
        ),
        Scenario(
            name="warm-mmap",
            question="What does a mapping of a cached file cost, every page touched?",
            data="llama-4gb",
            cache="warm",
            contenders=("weightstream-mmap", "safetensors", "safetensors-load-file", "safetensors-next"),
            baseline="safetensors",
        ),
        Scenario(
            name="small-tensors",
            question="What does each of 40,000 small tensors cost, from the disk?",
            data="small-tensors",
            cache="cold",
            contenders=(
                "weightstream",
                "safetensors",
                "safetensors-load-file",
                "safetensors-pread",
                "runai",
                "fastsafetensors",
            ),
            baseline="safetensors",
            per_tensor=True,
        ),
        Scenario(
            name="small-tensors-warm",
            question="What does each of 40,000 small tensors cost, from the page cache?",
            data="small-tensors",
            cache="warm",
            contenders=(
                "weightstream",
                "safetensors",
                "safetensors-load-file",
                "safetensors-pread",
                "runai",
                "fastsafetensors",
            ),
            baseline="safetensors",
            per_tensor=True,
        ),
        Scenario(
            name="tensor-overhead",
            question="What does a tensor cost when its bytes (512 of them) cost nothing?",
            data="specks",
            cache="warm",
            contenders=(
                "weightstream",
                "weightstream-mmap",
                "safetensors",
                "safetensors-load-file",
                "runai",
                "fastsafetensors",
            ),
            baseline="safetensors",
            per_tensor=True,
        ),
        Scenario(
            name="memory-limit",
            question="What does a memory limit cost in speed, and is it kept, when the consumer drops each tensor?",
            data="llama-layers",
            cache="cold",
            contenders=("weightstream", "weightstream-256m", "runai", "runai-256m"),
            baseline="weightstream",
            consumer_keeps=DROP,
            sample_memory=True,
        ),
        Scenario(
            name="cold-15gb",
            question="How fast does a Llama 8B checkpoint of four shards (16.06 GB, 14.96 GiB) come from the disk?",
            data="llama-8b",
            cache="cold",
            contenders=("fio", "weightstream", "safetensors", "safetensors-next", "runai", "fastsafetensors"),
            baseline="safetensors",
        ),
    )
}

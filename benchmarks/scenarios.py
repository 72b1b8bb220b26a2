"""What is measured: which checkpoint, in which state of the page cache, by which contenders."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.servers import LINK_BYTES_PER_SECOND
from benchmarks.targets import FLOOR, Target

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

_GPU_CONTENDERS = (
    "weightstream",
    "safetensors",
    "safetensors-next-prefetch",
    "runai",
    "fastsafetensors",
    "instanttensor",
)

# weightstream through the calls of the safetensors package.
_DROP_IN = ("weightstream-safe-open", "weightstream-load-file")

_LINK_CONTENDERS = (
    "sockets-64",
    "weightstream",
    "weightstream-16",
    "weightstream-32",
    "weightstream-64",
    "weightstream-128",
    "obstore-16",
    "obstore-64",
    "runai-s3-16",
    "runai-s3-32",
    "runai-s3-64",
)
_LINK_CONNECTIONS = 64
# Within the noise of two runs of the same thing is not "slower".
_NEVER_SLOWER = tuple(
    Target(f"weightstream-{more}", "speed", 0.97, of=f"weightstream-{fewer}")
    for fewer, more in ((16, 32), (32, 64), (64, 128))
)


@dataclass(frozen=True)
class Scenario:
    """One question and the runs that answer it."""

    name: str
    question: str
    data: str
    """Name of the layout."""
    cache: str
    """ "cold", "warm" or "tmpfs". """
    contenders: tuple[str, ...]
    baseline: str
    """The contender to which the others are compared."""
    consumer_keeps: bool = KEEP
    per_tensor: bool = False
    """Report microseconds a tensor rather than gigabytes a second."""
    sample_memory: bool = False
    server: str = ""
    """Name of the server to load from; empty: the disk."""
    link_bytes_per_second: float = 0.0
    """What all connections of a link together can bring; the floor of every time."""
    targets: tuple[Target, ...] = ()
    device: str = ""
    """Where the tensors go, if not to the CPU."""
    ranks: int = 1
    """How many processes load all of it at the same time."""


def _over_link(server: str, question: str, of_floor: float) -> Scenario:
    """The scenario of a slow server, of the same name: a load takes so many times what its connections need."""
    return Scenario(
        name=server,
        question=question,
        data="llama-4gb",
        cache="warm",
        contenders=_LINK_CONTENDERS,
        baseline="sockets-64",
        server=server,
        link_bytes_per_second=_LINK_CONNECTIONS * LINK_BYTES_PER_SECOND,
        targets=(Target("weightstream", "seconds", of_floor, of=FLOOR), *_NEVER_SLOWER),
    )


def _to_gpu(name: str, source: str, cache: str, *more: str) -> Scenario:
    """A large file out of memory of some kind, beside what the link to the device can do."""
    return Scenario(
        name=name,
        question=f"How fast does one file come from {source} to a GPU?",
        data="llama-file",
        cache=cache,
        contenders=("pinned-copy", *_GPU_CONTENDERS, *more),
        baseline="pinned-copy",
        targets=(Target("weightstream", "speed", 0.9, of="pinned-copy"),),
        device="cuda:0",
    )


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="cold-cpu",
            question="How fast does one file come from the disk into CPU memory?",
            data="llama-4gb",
            cache="cold",
            contenders=("fio", *_EVERYONE[:1], "weightstream-uring", *_DROP_IN, *_EVERYONE[1:]),
            baseline="safetensors",
            targets=(Target("weightstream-safe-open", "speed", 1.0, of="safetensors"),),
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
            contenders=("weightstream-mmap", *_DROP_IN, "safetensors", "safetensors-load-file", "safetensors-next"),
            baseline="safetensors",
            targets=(
                Target("weightstream-safe-open", "speed", 0.97, of="safetensors"),
                Target("weightstream-load-file", "speed", 0.97, of="safetensors-load-file"),
            ),
        ),
        Scenario(
            name="small-tensors",
            question="What does each of 40,000 small tensors cost, from the disk?",
            data="small-tensors",
            cache="cold",
            contenders=(
                "weightstream",
                "weightstream-safe-open",
                "weightstream-safe-open-slices",
                "safetensors",
                "safetensors-slices",
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
                "weightstream-safe-open",
                "weightstream-safe-open-slices",
                "safetensors",
                "safetensors-slices",
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
                "weightstream-safe-open",
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
            name="cold-ranks",
            question="How fast do three processes load the same file from the disk at the same time, all of it each?",
            data="llama-4gb",
            cache="cold",
            contenders=("weightstream", "weightstream-safe-open", "safetensors", "safetensors-pread", "runai"),
            baseline="safetensors",
            consumer_keeps=DROP,
            ranks=3,
        ),
        Scenario(
            name="cold-15gb",
            question="How fast does a Llama 8B checkpoint of four shards (16.06 GB, 14.96 GiB) come from the disk?",
            data="llama-8b",
            cache="cold",
            contenders=("fio", "weightstream", "safetensors", "safetensors-next", "runai", "fastsafetensors"),
            baseline="safetensors",
        ),
        *(
            Scenario(
                name=f"transformers-{cache}",
                question=f"How long, and how much memory, does from_pretrained of transformers take ({cache})?",
                data="llama-4gb",
                cache=cache,
                contenders=("transformers", "transformers-weightstream"),
                baseline="transformers",
                sample_memory=True,
                targets=(
                    Target("transformers-weightstream", "speed", speed, of="transformers"),
                    Target("transformers-weightstream", "peak memory growth, GB", 1.05, of="transformers"),
                ),
            )
            for cache, speed in (("cold", 1.2), ("warm", 0.95))
        ),
        Scenario(
            name="http-loopback",
            question="How fast, and at what cost in CPU time, does a file come over HTTP when the network is no limit?",
            data="llama-4gb",
            cache="warm",
            contenders=(
                "sockets-4",
                "sockets-16",
                "weightstream",
                "weightstream-s3",
                "obstore-16",
                "obstore-32",
                "obstore-64",
                "runai-s3",
                "boto3-16",
            ),
            baseline="sockets-16",
            server="http",
            targets=(
                Target("weightstream", "CPU-s/GB", 0.5),
                Target("weightstream", "CPU-s/GB", 0.75, of="obstore-16"),
                Target("weightstream", "CPU-s/GB", 0.25, of="runai-s3"),
                Target("weightstream", "speed", 0.95, of="sockets-16"),
            ),
        ),
        Scenario(
            name="https-loopback",
            question="The same through TLS: what is left of it?",
            data="llama-4gb",
            cache="warm",
            contenders=("weightstream", "obstore-16", "obstore-32", "obstore-64", "runai-s3", "boto3-16"),
            baseline="obstore-16",
            server="https",
        ),
        _over_link(
            "link-25",
            "How close does a load come to what 64 connections of 25 MB/s can bring, without tuning?",
            of_floor=1.25,
        ),
        _over_link("link-25-50ms", "The same where each response begins after 50 ms.", of_floor=1.4),
        Scenario(
            name="http-memory-limit",
            question="What does a memory limit cost over HTTP, and is it kept, when the consumer drops each tensor?",
            data="llama-layers",
            cache="warm",
            contenders=("weightstream", "weightstream-256m", "runai-s3", "runai-s3-256m"),
            baseline="weightstream",
            consumer_keeps=DROP,
            sample_memory=True,
            server="http",
            targets=(Target("weightstream-256m", "peak memory growth, GB", (256 + 150) * 2**20 / 1e9),),
        ),
        _to_gpu("gpu-warm", "the page cache", "warm", "instanttensor-buffered"),
        _to_gpu("gpu-tmpfs", "a tmpfs", "tmpfs"),
        Scenario(
            name="gpu-cold",
            question="How fast does one file come from the disk to a GPU?",
            data="llama-file",
            cache="cold",
            contenders=_GPU_CONTENDERS,
            baseline="safetensors",
            device="cuda:0",
        ),
        Scenario(
            name="gpu-small-tensors",
            question="What does each of 40,000 small tensors cost, from the page cache to a GPU?",
            data="small-tensors",
            cache="warm",
            contenders=("pinned-copy-whole", "pinned-copy", *_GPU_CONTENDERS),
            baseline="safetensors",
            per_tensor=True,
            device="cuda:0",
        ),
    )
}

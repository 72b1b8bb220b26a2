"""The files of a model on a web server, which does not list them: they are asked for by the names that they have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from .._errors import AuthError, FormatError, NotFoundError
from ..sources import File, RemoteSource, files_of
from ..sources.fetch import fetch, is_there
from ..sources.index import INDEX_SUFFIX, parse_weight_map
from ..sources.names import SUFFIX, check_key
from ..sources.remote import printable

MOST_BYTES = 256 << 20  # of one file beside the weights; the largest tokenizers have tens of megabytes
# What transformers, diffusers, peft and sentence-transformers look for beside the weights.
_NAMES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
_WEIGHTS = ("model", "adapter_model", "diffusion_pytorch_model")
_PIPELINE = "model_index.json"
_MODULES = "modules.json"  # of sentence-transformers
_WORKERS = 16


def files_of_a_web_folder(
    url: str, options: Mapping[str, Any], variant: str | None
) -> tuple[list[File], dict[str, bytes]]:
    """The safetensors files below a URL, and the contents of the other files, by their keys.

    Args:
        url: of the folder. Its query, if it has one, is sent with every request.
        options: storage_options.
        variant: a part of the names of weights, as in ``model.fp16.safetensors``.

    Raises:
        FormatError: a file that says what else there is, is not valid.
        WeightstreamError: what asking for them met, but for files that are not there.

    """
    folder = _WebFolder(url, options)
    with ThreadPoolExecutor(_WORKERS, "weightstream-web") as pool:
        contents = folder.contents(pool, [_PIPELINE, *_candidates("", variant)])
        below = _components(contents, folder.name)
        contents |= folder.contents(pool, [key for prefix in below for key in _candidates(prefix, variant)])
        weights: list[str] = []
        lone: list[str] = []
        for prefix in ("", *below):
            for stem in _WEIGHTS:
                index = prefix + _index_name(stem, variant)
                if index in contents:
                    shards = set(parse_weight_map(contents[index], f"{folder.name}{index}").values())
                    weights += [prefix + shard for shard in sorted(shards)]
                else:
                    lone.append(prefix + stem + (f".{variant}" if variant else "") + SUFFIX)
        there = list(pool.map(is_there, map(folder.source, lone)))
    weights += [key for key, found in zip(lone, there, strict=True) if found]
    return [File(key, None, folder.source(key)) for key in weights], contents


class _WebFolder:
    """One URL, and what lies below it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        parts = urlsplit(url)
        self._parts = parts._replace(path=parts.path.rstrip("/") + "/")
        self._options = options
        self.name = printable(urlunsplit(self._parts))

    def source(self, key: str) -> RemoteSource:
        """The object of a key. The server is not asked for it yet."""
        check_key(key, self.name)
        url = urlunsplit(self._parts._replace(path=self._parts.path + quote(key)))
        (source,) = files_of([url], self._options)
        assert isinstance(source, RemoteSource)
        return source

    def contents(self, pool: ThreadPoolExecutor, keys: Sequence[str]) -> dict[str, bytes]:
        """What is there of some keys."""
        found = pool.map(_content, [self.source(key) for key in keys])
        return {key: data for key, data in zip(keys, found, strict=True) if data is not None}


def _candidates(prefix: str, variant: str | None) -> list[str]:
    return [prefix + name for name in (*_NAMES, *(_index_name(stem, variant) for stem in _WEIGHTS))]


def _index_name(stem: str, variant: str | None) -> str:
    name = stem + INDEX_SUFFIX
    return name.removesuffix(".json") + f".{variant}.json" if variant else name


def _content(source: RemoteSource) -> bytes | None:
    try:
        return fetch(source, MOST_BYTES)
    except (NotFoundError, AuthError):  # buckets that may not be listed refuse what is not there
        return None


def _components(contents: Mapping[str, bytes], name: str) -> list[str]:
    """The folders that a pipeline of diffusers, or a model of sentence-transformers, says that it has."""
    found: dict[str, None] = {}
    try:
        pipeline = json.loads(contents.get(_PIPELINE, b"{}"))
        # "unet": ["diffusers", "UNet2DConditionModel"]; what there is none of is [null, null].
        found.update(
            dict.fromkeys(
                key for key, value in pipeline.items() if isinstance(value, list) and value and None not in value
            )
        )
        modules = json.loads(contents.get(_MODULES, b"[]"))
        found.update(dict.fromkeys(module["path"] for module in modules if module["path"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{_PIPELINE} or {_MODULES} is not what it should be: {error}", source=name) from None
    for folder in found:
        check_key(folder, name)
    return [f"{folder}/" for folder in found]

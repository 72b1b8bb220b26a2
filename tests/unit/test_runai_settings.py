"""weightstream.runai: credentials, the environment, the logger, and the public names."""

from __future__ import annotations

import inspect
import logging
import pickle
from typing import Any

import pytest

import weightstream.runai
from processes import run
from weightstream import _errors
from weightstream.runai import S3Credentials, _environment, _log
from weightstream.runai import _errors as value_errors
from weightstream.runai.credentials import (
    is_azure_path,
    is_gs_path,
    is_remote_path,
    is_s3_path,
    storage_options,
)

KEYS = S3Credentials("id", "secret", "token", "eu-west-1", "https://minio.example:9000")
OF_KEYS = {
    "aws_access_key_id": "id",
    "aws_secret_access_key": "secret",
    "aws_session_token": "token",
    "region_name": "eu-west-1",
    "endpoint_url": "https://minio.example:9000",
}
PATHS = {"s3": ["s3://b/k"], "gs": ["gs://b/k"], "az": ["az://c/b"], "local": ["/tmp/x", "file:///tmp/x"]}
VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_CONNECTION_STRING")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "storage", "credentials", "options"),
    [
        ({}, "s3", None, {}),
        ({}, "s3", S3Credentials(), {}),
        ({}, "s3", KEYS, OF_KEYS),
        ({}, "s3", S3Credentials(region_name="x"), {"region_name": "x"}),
        ({}, "gs", KEYS, {}),
        ({}, "az", KEYS, {}),
        ({}, "local", KEYS, {}),
        ({"RUNAI_STREAMER_S3_ENDPOINT": "http://h"}, "s3", None, {"endpoint_url": "http://h"}),
        ({"RUNAI_STREAMER_S3_ENDPOINT": "http://h"}, "s3", KEYS, OF_KEYS),
        ({"RUNAI_STREAMER_S3_ENDPOINT": "http://h", "AWS_ENDPOINT_URL": "http://i"}, "s3", None, {}),
        ({"RUNAI_STREAMER_S3_ENDPOINT": "http://h"}, "gs", None, {}),
        (
            {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"},
            "s3",
            None,
            {"config": {"s3": {"addressing_style": "path"}}},
        ),
        ({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "1"}, "s3", None, {}),
        ({"RUNAI_STREAMER_S3_UNSIGNED": "1"}, "s3", None, {"anonymous": True}),
        ({"RUNAI_STREAMER_S3_UNSIGNED": "0"}, "s3", None, {}),
        ({"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "True"}, "gs", None, {"anonymous": True}),
        ({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": "/k.json"}, "gs", None, {"credentials_file": "/k.json"}),
        ({"RUNAI_STREAMER_GCS_CREDENTIAL_FILE": "/k.json"}, "s3", None, {}),
        ({"AZURE_STORAGE_ENDPOINT": "https://a.example"}, "az", None, {"account_url": "https://a.example"}),
        ({"AZURE_STORAGE_ENDPOINT": "https://a.example", "AZURE_STORAGE_CONNECTION_STRING": "x"}, "az", None, {}),
        ({"WEIGHTSTREAM_STORAGE_OPTIONS": '{"verify": "/ca.pem"}'}, "s3", KEYS, {**OF_KEYS, "verify": "/ca.pem"}),
        ({"WEIGHTSTREAM_STORAGE_OPTIONS": '{"verify": "/ca.pem"}'}, "local", None, {}),
    ],
)
def test_credentials_and_environment_as_storage_options(
    variables: dict[str, str],
    storage: str,
    credentials: S3Credentials | None,
    options: dict[str, Any],
    environment: pytest.MonkeyPatch,
) -> None:
    for variable, value in variables.items():
        environment.setenv(variable, value)
    assert storage_options(PATHS[storage], credentials) == options


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(KEYS)
    assert "token" not in repr(KEYS)


def test_which_storage_a_path_is_in() -> None:
    tests = (is_s3_path, is_gs_path, is_azure_path, is_remote_path)
    for path, expected in {
        "s3://b/k": (True, False, False, True),
        "S3://b/k": (True, False, False, True),
        "gs://b": (False, True, False, True),
        "az://c/b": (False, False, True, True),
        "hf://org/model": (False, False, False, True),
        "file:///tmp": (False, False, False, False),
        "/models/s3://b": (False, False, False, False),
        "": (False, False, False, False),
    }.items():
        assert tuple(test(path) for test in tests) == expected, path


@pytest.mark.parametrize(
    ("given", "variable", "limit"),
    [
        (None, None, None),
        (None, "", None),
        (None, "-1", 2**63 - 1),
        (None, " -1", 2**63 - 1),
        (None, "0", 1),
        (None, "5000", 5000),
        (None, str(2**70), 2**63 - 1),
        (-1, "7", 2**63 - 1),
        (0, "7", 1),
        (9, "7", 9),
    ],
)
def test_memory_limits(
    given: int | None, variable: str | None, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", variable)
    assert _environment.memory_limit(given) == limit


def test_sizes_in_the_log() -> None:
    sizes = {0: "0 Bytes", 1: "1 Byte", 1023: "1023 Bytes", 1024: "1.0 KiB", 1536: "1.5 KiB", 2**20 - 1: "1.0 MiB"}
    sizes |= {3 * 2**30: "3.0 GiB", 2**40: "1.0 TiB", 5000 * 2**40: "5000.0 TiB"}
    assert {size: _log.binary_size(size) for size in sizes} == sizes


@pytest.mark.parametrize(
    ("variables", "level", "handlers"),
    [
        ({}, logging.INFO, 0),
        ({"RUNAI_STREAMER_LOG_LEVEL": "debug"}, logging.DEBUG, 0),
        ({"RUNAI_STREAMER_LOG_LEVEL": "chatty"}, logging.INFO, 0),
        ({"RUNAI_STREAMER_LOG_TO_STDERR": "1"}, logging.INFO, 1),
        ({"RUNAI_STREAMER_LOG_TO_STDERR": "0"}, logging.INFO, 0),
    ],
)
def test_the_logger(variables: dict[str, str], level: int, handlers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    logger = logging.getLogger("runai_model_streamer")
    before = logger.level, logger.propagate, logger.handlers[:]
    try:
        _log.configure()
        _log.configure()  # as a second import would
        assert (logger.level, len(logger.handlers) - len(before[2]), logger.propagate) == (
            level,
            handlers,
            not handlers,
        )
    finally:
        logger.level, logger.propagate, logger.handlers = before


def test_every_error_is_a_value_error_and_stays_what_it_is() -> None:
    kinds = [
        kind
        for kind in vars(_errors).values()
        if inspect.isclass(kind)
        and issubclass(kind, _errors.WeightstreamError)
        and kind is not _errors.WeightstreamError
    ]
    assert len(kinds) > 10
    for kind in kinds:
        error = kind("it failed", source="s3://b/k", range=(1, 2), status=503, attempts=3)
        with pytest.raises(ValueError, match="it failed") as raised, value_errors.as_value_errors():
            raise error
        assert isinstance(raised.value, kind)
        again = pickle.loads(pickle.dumps(raised.value))
        assert type(again) is type(raised.value)
        assert str(again) == str(raised.value) == str(error)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), value_errors.as_value_errors():
        raise KeyError


SIGNATURES = {
    "list_safetensors": "path, s3_credentials=None",
    "pull_files": "model_path, dst, allow_pattern=None, ignore_pattern=None, s3_credentials=None",
    "prepare_request": "fs, paths, s3_credentials",
    "ObjectStorageModel": "model_path, dst, s3_credentials=None",
    "ObjectStorageModel.pull_files": "self, allow_pattern=None, ignore_pattern=None",
    "SafetensorsStreamer": "",
    "SafetensorsStreamer.stream_file": "self, path, s3_credentials=None, device='cpu', is_distributed=False, "
    "tensor_names=None, owned=True",
    "SafetensorsStreamer.stream_files": "self, paths, s3_credentials=None, device='cpu', is_distributed=False, "
    "tensor_names=None, owned=True",
    "SafetensorsStreamer.get_tensors": "self",
    "FileStreamer": "",
    "FileStreamer.stream_files": "self, file_stream_requests, credentials=None, device='cpu', memory_limit=None, "
    "owned=True",
    "FileStreamer.get_chunks": "self",
    "FileStreamer.list_files": "self, prefix, is_recursive=True, allow_patterns=None, ignore_patterns=None",
    "FileChunks": "id, path, offsets, sizes",
    "FileChunks.contiguous": "id, path, offset, sizes",
    "DistributedStreamer": "",
    "DistributedStreamer.stream_files": "self, file_stream_requests, credentials, device, is_distributed, owned=True",
    "S3Credentials": "access_key_id=None, secret_access_key=None, session_token=None, region_name=None, endpoint=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_of_the_package_that_it_stands_in_for(name: str) -> None:
    found: Any = weightstream.runai
    for part in name.split("."):
        found = getattr(found, part)
    parameters = inspect.signature(found).parameters.values()
    text = ", ".join(one.name if one.default is one.empty else f"{one.name}={one.default!r}" for one in parameters)
    assert text == SIGNATURES[name]


def test_public_names_have_docstrings_and_are_all_there_is() -> None:
    public = {
        name
        for name, value in vars(weightstream.runai).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(weightstream.runai.__all__)
    for name in public:
        value = getattr(weightstream.runai, name)
        assert inspect.getdoc(value), name
        assert "Example:" in inspect.getdoc(value), name  # type: ignore[operator]
        for member, what in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(what) and not member.startswith("_"):
                assert inspect.getdoc(what), f"{name}.{member}"


def test_what_is_imported_when() -> None:
    """Neither it by weightstream, nor torch and boto3 by it."""
    program = """
        import weightstream
        assert not [name for name in sys.modules if "runai" in name]
        import weightstream.runai
        print(sorted({"torch", "boto3", "numpy"} & set(sys.modules)))
    """
    assert run(program).strip() == "[]"

"""S3: SeaweedFS, which checks signatures, their age, and permissions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

from servers.programs import answers, find_program, free_ports, running

REGION = "us-east-1"


@dataclass(frozen=True)
class Keys:
    """Credentials."""

    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """As boto3 finds them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


OWNER = Keys("AKIATESTOWNER", "secret-of-the-owner")
READER = Keys("AKIATESTREADER", "secret-of-the-reader")  # may list and read the bucket "models", and nothing else
STRANGER = Keys("AKIATESTSTRANGER", "secret-of-nobody")


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str

    def client(self, keys: Keys = OWNER, **settings: Any) -> Any:
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            region_name=REGION,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
            **settings,
        )

    def make_bucket(self, bucket: str, *, versions: bool = False) -> None:
        """Makes a bucket, if there is none of the name."""
        client = self.client()
        if bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=bucket)
        if versions:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def put(self, bucket: str, key: str, data: bytes) -> dict[str, Any]:
        """Stores an object; the answer has its ETag, and its VersionId in a bucket with versions."""
        return dict(self.client().put_object(Bucket=bucket, Key=key, Body=data))

    def upload(self, folder: Path, bucket: str, prefix: str) -> str:
        """Stores the files of a folder below a prefix, and returns the s3:// URL of that."""
        self.make_bucket(bucket)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(bucket, f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{bucket}/{prefix}"

    def presign(self, bucket: str, key: str, seconds: int = 3600) -> str:
        """A URL that anybody may read for a while."""
        url = self.client().generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=seconds)
        return str(url)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server with the three identities above, for the block."""
    actions = {OWNER: ["Admin", "Read", "List", "Write", "Tagging"], READER: ["Read:models", "List:models"]}
    identities = [
        {
            "name": keys.access_key.lower(),
            "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
            "actions": allowed,
        }
        for keys, allowed in actions.items()
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    parts = ["master", "volume", "filer", "s3"]
    ports = free_ports(2 * len(parts))
    options = {"dir": "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": "identities.json"}
    for i, part in enumerate(parts):
        options |= {f"{part}.port": str(ports[i]), f"{part}.port.grpc": str(ports[len(parts) + i])}
    options |= {"s3.port.iceberg": "0", "s3.port.lance": "0", "master.telemetry": "false"}
    options |= {"master.volumeSizeLimitMB": "64", "volume.max": "100", "volume.preStopSeconds": "0"}
    command = [find_program("weed", Path(sys.prefix) / "bin"), "server", "-s3"]
    command += [f"-{key}={value}" for key, value in options.items()]
    try:
        with running(command, folder, lambda: all(map(answers, ports)), stop=SIGKILL):
            server = S3Server(f"http://127.0.0.1:{ports[parts.index('s3')]}")
            server.make_bucket("models")
            yield server
    finally:
        for port in ports:  # it insists on this place
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

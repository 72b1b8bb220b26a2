"""See weightstream.runai."""

from weightstream.runai import S3Credentials
from weightstream.runai.credentials import is_azure_path, is_gs_path, is_s3_path

__all__ = ["S3Credentials", "is_azure_path", "is_gs_path", "is_s3_path"]

"""See weightstream.runai."""

from weightstream.runai import prepare_request
from weightstream.runai.safetensors_metadata import (
    Offsets,
    SafetensorMetadata,
    create_torch_tensor,
    requires_alignment_copy,
)

__all__ = ["Offsets", "SafetensorMetadata", "create_torch_tensor", "prepare_request", "requires_alignment_copy"]

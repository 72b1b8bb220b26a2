"""Measures weightstream beside the other loaders of safetensors files, and beside the disk's own limit."""

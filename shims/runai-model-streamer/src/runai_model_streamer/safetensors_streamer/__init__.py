"""Safetensors files: see weightstream.runai."""

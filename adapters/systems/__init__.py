"""The systems, a folder each: `adapter.toml` (its card) and `adapter.py`."""

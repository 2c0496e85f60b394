"""Training our own small networks on the procedural family: `python -m bench.training --help`."""

"""Benchmarks, each a module with a command line of its own: `./run bench NAME [--json]`."""

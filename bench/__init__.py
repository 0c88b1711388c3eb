"""Benchmarks of the bridge, other servers and the kernel: docs/benchmarks.md. Not part of the wheel."""

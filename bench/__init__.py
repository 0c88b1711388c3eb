"""Benchmarks of the bridge, other servers and the kernel: docs/performance.md. Not part of the wheel."""

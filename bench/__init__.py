"""Measures the bridge against its peers and the kernel: docs/performance.md. Not part of the wheel."""

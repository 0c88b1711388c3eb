"""Measures the bridge against its peers and against the kernel. Not part of the wheel; see docs/performance.md."""

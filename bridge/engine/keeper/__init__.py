"""The engine of several workers on one machine: a `Store` in their parent process, behind socket pairs."""

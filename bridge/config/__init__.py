"""The configuration: its settings, where they are read from, and the checks they must pass."""

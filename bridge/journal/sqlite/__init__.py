"""The durable journal: one SQLite file, one writer thread with group commit."""

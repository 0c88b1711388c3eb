"""`serve --workers N`: one process that starts, replaces and stops N others, which serve on one port."""

"""Files of results: read from providers, copied, and served."""

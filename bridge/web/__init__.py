"""The HTTP routes: parsing, limits, middleware and responses."""

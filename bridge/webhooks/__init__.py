"""Webhooks out: which states are sent to which endpoints, and how each delivery arrives."""

"""This process as one of several on one engine: its session, what it owns, and the journal they share."""

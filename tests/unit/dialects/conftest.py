"""Hypothesis measures each example by the clock, and on a busy machine any of them may take long."""

from hypothesis import settings

settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")

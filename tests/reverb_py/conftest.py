"""Hypothesis for machines that are busy: an example may take as long as it takes."""

from hypothesis import settings

settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")

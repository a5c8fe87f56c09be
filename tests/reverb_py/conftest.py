"""Hypothesis for machines that are busy: an example may take as long as it takes."""

import os

from hypothesis import settings

settings.register_profile("patient", settings.default, deadline=None)
settings.register_profile("thorough", settings.default, deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

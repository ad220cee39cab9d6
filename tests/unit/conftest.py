"""Settings of all unit tests."""

from hypothesis import settings

# A busy machine is no finding: examples have no deadline each, the whole test has pytest's.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

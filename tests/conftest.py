"""For all tests: these machines are shared, so no example of a property has a time limit of its own."""

from hypothesis import settings

settings.register_profile("shared machines", deadline=None)
settings.load_profile("shared machines")

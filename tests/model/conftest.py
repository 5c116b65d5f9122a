"""Fixtures of the stage on which the real code is played, see ``conftest_model``."""

from conftest_model import many_writers, race

__all__ = ["many_writers", "race"]

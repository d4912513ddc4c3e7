"""SSLD as a pipeline: remove leaks from an image pool, mine it with a teacher, distil students on it."""

__version__ = "0.1.0"

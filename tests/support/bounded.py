"""A bound for what once took minutes, or would never end; no measure of speed."""

import time
from contextlib import contextmanager

LONGEST = 60.0
"""Seconds of the processor: many times what a slow machine takes."""


@contextmanager
def bounded(what=""):
    """Require that a scope ends within the bound."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < LONGEST, (what, took)

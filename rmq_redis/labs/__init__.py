"""Measuring and trying out: no part of a running system."""

"""Requests of consumers that POP.."""

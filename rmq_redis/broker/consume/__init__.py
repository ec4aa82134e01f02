"""Requests of consumers that pull.."""

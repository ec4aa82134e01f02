"""Requests of producers.."""

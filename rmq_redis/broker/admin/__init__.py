"""Requests of admin tools.."""

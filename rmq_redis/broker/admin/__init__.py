"""Requests of admin tools."""

"""The connection to a Redis server, and the functions that run in it.."""

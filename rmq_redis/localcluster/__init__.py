"""Starts and supervises the processes of a cluster on this machine, for up, demo, bench and chaos.."""

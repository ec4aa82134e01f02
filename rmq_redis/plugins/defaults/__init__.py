"""The strategies that are built in, registered through the same hooks as everybody's.."""

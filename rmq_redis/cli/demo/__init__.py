"""The command demo.."""

"""The clients for code without an event loop."""

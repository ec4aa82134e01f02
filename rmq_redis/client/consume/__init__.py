"""The push, pull and simple consumers.."""

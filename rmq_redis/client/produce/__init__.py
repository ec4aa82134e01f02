"""The producer.."""

"""The admin client.."""

"""What the NameServers keep in Redis.."""

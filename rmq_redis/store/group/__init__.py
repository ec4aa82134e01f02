"""What a broker group keeps in Redis.."""

"""What all clients share: connections, routes, settings, lifetime.."""

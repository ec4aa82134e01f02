"""What a broker group shares: topics, clients, leadership, registration, retention, scheduled messages.."""

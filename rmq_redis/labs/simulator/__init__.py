"""What load balancers and allocate strategies do to a described cluster, without one: ``rmq-redis simulate``.

Offline, on a virtual clock, and the same for the same seed. It asks plugins as clients do and opens no socket.
"""

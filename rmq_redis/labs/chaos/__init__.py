"""A cluster under faults: what producers and consumers recorded, and whether it was right."""

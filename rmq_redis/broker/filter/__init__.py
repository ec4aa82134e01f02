"""Tag and SQL92 expressions.."""

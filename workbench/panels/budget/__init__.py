"""A run whose σ and batch change on the way, and what it spends by then."""

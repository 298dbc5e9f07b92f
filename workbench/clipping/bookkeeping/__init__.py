"""Clipped sums in one backward pass (book-keeping); see `engine`."""

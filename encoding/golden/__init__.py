"""Vectors that a checkpoint is known to give, and the check that it still gives them."""

"""Runnable examples and ume-tiny, the small trained model that umekit uses when none is named."""

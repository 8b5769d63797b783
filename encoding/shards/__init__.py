"""Millions of items to parts on disk: stopped at any moment, shared by any number of processes."""

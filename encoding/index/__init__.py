"""Vectors that are searched: exact or compressed; made from rows, from shards, or from a folder as it changes."""

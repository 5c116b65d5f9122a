"""Versions: finding them, opening sessions, claiming shards, publishing records, and keeping Zarr's documents at head."""

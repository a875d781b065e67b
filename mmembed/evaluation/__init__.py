"""Vectors or rankings in, named numbers out."""

"""Visualized-BGE: a BGE text encoder that reads an image's patches as tokens after its first."""

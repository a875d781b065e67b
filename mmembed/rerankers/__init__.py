"""(query, candidate) → score."""

"""A dialogue → a better ranking: what to ask, who answers, and what an answer changes."""

"""Foreign weights → transformers': one key table a family."""

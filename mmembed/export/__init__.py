"""A model in, something to run or to publish out."""

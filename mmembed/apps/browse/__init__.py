"""What a search looks like: a page over an index, where a person types, drops a picture, filters and compares."""

"""Our own dual encoder: any text tower and any vision tower, projected into one space, with a fusion head."""

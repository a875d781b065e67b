"""Images as vectors: any vision backbone, pooled, with a neck."""

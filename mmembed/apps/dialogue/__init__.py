"""A search that asks back, as a page: a person looks for a product and answers; the ranking moves round by round."""

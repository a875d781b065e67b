"""What training minimises: sentence-transformers' losses by name, with masks and learnable temperatures."""

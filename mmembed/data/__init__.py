"""What turns files into rows, and rows into batches."""

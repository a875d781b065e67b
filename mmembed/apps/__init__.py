"""What a person or a program opens: pages and servers."""

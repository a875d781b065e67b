"""What moves the weights: the trainer, its arguments, its optimizer groups, its checkpoints and its log."""

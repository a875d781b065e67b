"""mmembed: from a catalogue of images and texts to a published, measured, compressed embedding model."""

__version__ = "0.1.0"

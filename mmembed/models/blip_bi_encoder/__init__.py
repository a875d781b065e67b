"""BLIP's two towers and their projections, which make vectors; and the texts that BLIP was trained on."""

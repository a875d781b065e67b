"""Fine-tune an embedding model on a catalogue of images and texts and show what it gained.

    accelerate launch recipes/ft_embedding.py                                    # the drawn catalogue, a small model
    accelerate launch recipes/ft_embedding.py --config recipes/fashion/frozen_image.yaml --items products.jsonl

The same as `mmembed train`; `--help` lists the options, `--print_config` prints what would be used.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

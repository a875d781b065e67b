"""Encode a catalogue: a folder of vectors for each use, which mmembed's index and evaluation read.

    python recipes/encode.py --items products.jsonl --model MODEL --use image --output_dir vectors
    accelerate launch --multi_gpu --num_processes 2 recipes/encode.py --items products.jsonl --model MODEL ...
    torchrun --nproc_per_node 2 recipes/encode.py ...          # the same, with or without GPUs

    python recipes/encode.py --model MODEL --output_dir vectors            # the drawn catalogue, each use in a folder

The same as `mmembed encode`; `--help` lists the options, `--print_config` prints what would be used. Run it again after an
interruption and it goes on where it stopped; several processes write the very files that one writes.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))

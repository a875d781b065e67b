"""Search by answering questions; or let a simulated person answer, and measure how well it goes.

    python recipes/interactive.py --query "a red mug"                   # you answer; the drawn catalogue, its words
    python recipes/interactive.py --simulate 10 --success_at 1           # ten dialogues, and the table with its controls

    python recipes/ft_embedding.py --output_dir runs/train                  # a model of the catalogue's pictures
    python recipes/interactive.py --model runs/train/model --simulate 200 --query_column description_en

    python recipes/interactive.py --items products.jsonl --image_root DIR --model MODEL \\
        --attributes colour material --attribute_source vectors --query "shoes"            # products of your own

The same as `mmembed interact`; `--help` lists the options. Every round is kept in runs/interact: a run that was interrupted goes on.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["interact", *sys.argv[1:]]))

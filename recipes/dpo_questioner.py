"""Train a vision-language model to ask the better question, by preference, and show what it learnt.

    python recipes/dpo_questioner.py                                             # drawn products, a small model
    mmembed preferences --items items.jsonl --image_root DIR --output_dir pairs  # pairs of your own
    accelerate launch recipes/dpo_questioner.py --config recipes/questioner/smolvlm.yaml \\
        --pairs pairs/train.parquet --held_out pairs/test.parquet --output_dir runs/questioner

The same as `mmembed dpo`; `--help` lists the options, `--print_config` prints what would be used. All of TRL's DPOConfig are
options as well.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["dpo", *sys.argv[1:]]))

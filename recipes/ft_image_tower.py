"""Train an image tower with an ArcFace head on photos of the same things and show what it gained.

    accelerate launch recipes/ft_image_tower.py                                    # the drawn catalogue, a small ResNet
    accelerate launch recipes/ft_image_tower.py --config recipes/image_tower/shopee.yaml --items photos.csv

The same as `mmembed train-image-tower`; `--help` lists the options, `--print_config` prints what would be used.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-image-tower", *sys.argv[1:]]))

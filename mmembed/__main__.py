"""``python -m mmembed VERB …`` is ``mmembed VERB …``; a launcher (``torchrun -m mmembed train``) needs a module."""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main())

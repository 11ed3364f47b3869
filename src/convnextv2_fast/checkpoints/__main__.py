"""The earlier name of `python -m convnextv2_fast convert`."""

import sys

from ..cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))

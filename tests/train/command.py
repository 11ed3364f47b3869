"""The command line for tests that start processes: torchvision is made importable first.

python -m tests.train.command pretrain --data_path ..."""

import sys

from convnextv2_fast.cli import main
from tests import peers

if __name__ == "__main__":
    peers.torchvision()
    sys.exit(main())

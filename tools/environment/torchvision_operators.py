"""Lets torchvision, and so timm, be imported beside a torch that it was not built for.

A torchvision of the package index is built for a CUDA build of torch. Beside a CPU build its library does not load, two
operators are then missing, and importing it fails. tools.environment puts this file, and a .pth file that imports it,
into an environment where that is so. It declares the operators, without an implementation, when they are asked for.
"""

import importlib.abc
import sys

ASKS = "torchvision._meta_registrations"  # imported once torchvision has tried to load its library
kept = []  # a torch Library withdraws its operators when it is collected


class Declare(importlib.abc.MetaPathFinder):
    """Finds nothing; notices that torchvision is about to use its operators."""

    def find_spec(self, name, path=None, target=None):
        if name == ASKS:
            sys.meta_path.remove(self)
            import torch

            if not torch._C._dispatch_has_kernel("torchvision::nms"):
                library = torch.library.Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                kept.append(library)
        return None


sys.meta_path.insert(0, Declare())

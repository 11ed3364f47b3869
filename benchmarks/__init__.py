"""Benchmarks of convnextv2_fast beside its peers. Not part of the wheel; run from the repository root.

`suite` has the pytest cases, `reports` the programs that leave a page, `rivals` what others compute, `results` what was
measured, `kernel_model` a model of GPU time; `compare` times a revision beside the working tree.

timm and transformers import torchvision, which `torchvision_operators` lets in beside a torch that it was not
built for.
"""

from tools.environment import torchvision_operators  # noqa: F401

"""The tests that `make test` leaves out and `make test-all` runs: each repeats at length what quicker ones sample.

Patterns are matched against pytest's node ids, as by fnmatch, but for brackets, which stand for themselves."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

PATTERNS = (
    # kernels on emulated or interpreted devices: the pairs of settings are in `make test`
    "tests/cuda_emulation/test_emulation.py::test_other_orders*",
    "tests/cuda_emulation/test_emulation.py::test_sanitized",
    "tests/cuda_emulation/emulated/test_measured_passes.py::*",
    "tests/triton/interpreted/test_models.py::test_compiled_for_any_size",
    "tests/triton/interpreted/test_models.py::test_training_step_with_drop_path",
    "tests/triton/interpreted/test_models.py::test_fcmae_step[even*",
    "tests/triton/interpreted/test_models.py::test_fcmae_step[ragged-batch]",
    "tests/triton/interpreted/test_models.py::test_dense_model",
    "tests/triton/interpreted/test_ops.py::test_widths*",
    "tests/triton/interpreted/test_ops.py::test_strategies[*-torch.float16]",
    "tests/triton/interpreted/test_ops.py::test_sweeps_of_any_length*",
    "tests/triton/interpreted/test_ops.py::test_strips_of_any_width[1]",
    "tests/triton/interpreted/test_traffic.py::*",
    "tests/native/test_isa.py::test_kernel_of_each_width*",
    "tests/native/test_mlp_grn_native.py::test_kernel_of_*",
    "tests/native/test_rows_native.py::test_kernel_of_each_width[avx512-emulated]",
    "tests/fake_device/test_fake_device.py::test_whole_steps_never_read_from_the_device",
    # machine code, compiled for several GPUs
    "tests/cuda_code/test_cuda_code.py::test_vectors_are_moved_whole*",
    "tests/cuda_code/test_cuda_code.py::test_local_memory_is_not_touched*",
    "tests/static_figures/test_static_figures.py::test_every_operator_of_ours_launches",
    "tests/triton/test_compile.py::test_the_resource_table_is_current",
    "tests/static_figures/test_static_figures.py::test_no_figure_is_above_its_ceiling*",
    "tests/triton/test_compile.py::test_no_spills_within_shared_memory_on_matrix_units",
    # models compiled, exported, distributed: one of each kind is in `make test`
    "tests/ecosystem/test_graphs.py::test_compiled_ahead_of_time*",
    "tests/ecosystem/test_graphs.py::test_compiled_training*",
    "tests/ecosystem/test_graphs.py::test_compiled_inference[ours]",
    "tests/ecosystem/test_graphs.py::test_compiled_inference[transformers]",
    "tests/ecosystem/test_graphs.py::test_compiled_inference[v1]",
    "tests/ecosystem/test_graphs.py::test_onnx[timm]",
    "tests/ecosystem/test_graphs.py::test_onnx[transformers]",
    "tests/ecosystem/test_graphs.py::test_onnx[v1]",
    "tests/ecosystem/test_numerics.py::test_no_worse_than_twice_plain_pytorch[nano]",
    "tests/ecosystem/test_distributed.py::*",
    "tests/models/test_convnextv2.py::test_compile_and_export",
    "tests/models/test_fcmae.py::test_grad_checkpointing_and_compile",
    "tests/ops/test_all_ops.py::test_compile_for_any_size[patch_conv-site]",
    # whole runs of training, of programs, of installations
    "tests/train/test_processes.py::*",
    "tests/train/test_cuda_graph.py::test_pretraining[plain]",
    "tests/train/test_cuda_graph.py::test_finetuning[lamb]",
    "tests/train/test_cuda_graph.py::test_finetuning[weight-decay]",
    "tests/train/test_pretrain.py::test_a_full_disk_does_not_end_the_run",
    "tests/train/test_pretrain.py::test_a_killed_run_goes_on_exactly[accumulated]",
    "tests/train/test_pretrain.py::test_a_killed_run_goes_on_exactly[float16-ema]",
    "tests/train/test_pretrain.py::test_a_killed_run_goes_on_exactly[bfloat16-workers]",
    "tests/reliability/test_growth.py::*",
    "tests/reliability/test_changing.py::test_ten_thousand_changes*",
    "tests/benchmarks/test_gpu_account.py::test_dry_run",
    "tests/cli/test_bench.py::test_runtimes_compute_the_same*",
    "tests/docs/test_shell.py::test_command[serving.md-*-python-*",
    "tests/docs/test_shell.py::test_command[command-line.md-*-python-*",
    "tests/docs/test_pages.py::test_the_site_builds_without_a_warning",
    "tests/packaging/test_install.py::test_kernels_after*",
    "tests/packaging/test_install.py::test_without_a_compiler_everything_says_so",
    "tests/packaging/test_wheels.py::test_a_wheel_from_end_to_end",
    "tests/packaging/test_build.py::test_without_a_compiler_it_is_pure_python",
)
_FNMATCH = tuple(pattern.replace("[", "[[]") for pattern in PATTERNS)


def matching(nodeid: str) -> list[str]:
    """The patterns that leave this test out."""
    return [pattern for pattern, form in zip(PATTERNS, _FNMATCH, strict=True) if fnmatchcase(nodeid, form)]


def mark(items: list[pytest.Item]) -> None:
    """Gives those tests the mark `thorough`."""
    for item in items:
        if matching(item.nodeid):
            item.add_marker("thorough")

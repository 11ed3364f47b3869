"""The tests of this folder run under Triton's interpreter, which is chosen when a kernel is declared: in a process of
their own, TRITON_INTERPRET=1 pytest tests/triton/interpreted. `tests/triton/test_interpreter.py` starts it."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

"""The tests of this folder run under Triton's interpreter, which is chosen when a kernel is declared: in a process of
their own, TRITON_INTERPRET=1 pytest tests/triton/interpreted. `tests/triton/test_interpreter.py` starts it.
With --pairs, of each test only so many cases that any two values of two parameters meet."""

import os

from tests.pairs import select

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


def patch_once_a_launch():
    """The interpreter replaces the functions of triton.language anew whenever a kernel calls a device function, which
    takes a fifth to a half of its time. Once a launch is enough, for each set of modules that a function sees."""
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    patch, patched, sees = interpreter._patch_lang, set(), {}

    class Launch:
        def __init__(self, scope):
            self.scope = scope

        def restore(self):
            self.scope.restore()
            patched.clear()

    def patch_lang(fn):
        if fn not in sees:
            sees[fn] = frozenset(id(value) for value in fn.__globals__.values() if value is tl or value is tl.core)
        if sees[fn] in patched:
            return None  # a device function's is never restored
        outermost, scope = not patched, patch(fn)
        if not hasattr(scope, "restore"):
            return scope  # another version of Triton
        patched.add(sees[fn])
        return Launch(scope) if outermost else scope

    interpreter._patch_lang = patch_lang


if INTERPRETED:
    patch_once_a_launch()


def pytest_collection_modifyitems(config, items):
    if config.getoption("--pairs"):
        select(config, items)

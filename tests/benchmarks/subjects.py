"""Providers for real workers: they compute nothing, and one ends its process."""

import os
import time

from convnextv2_fast.bench.worker import Subject, WrongResult


def fake(shared, seconds=0.001, wrong="", code=None):
    def check():
        print("libraries talk on stdout")
        if wrong:
            raise WrongResult(wrong)
        (shared / "seen").touch()
        return {"difference": 0.5}

    if code is not None:
        os._exit(code)
    return Subject(lambda i: time.sleep(seconds), check)

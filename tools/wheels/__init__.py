"""Builds the wheels of a release, audits and tries them, and writes the index that serves them.

    python -m tools.wheels --help

Needs Python's standard library only, and the programs that it names when they are missing.
"""

"""Sets up what a make target needs: an environment, the packages for that purpose, the package in place.

    python -m tools.environment --venv .venv torch build bench

Python's standard library only: it runs before anything is installed.
"""

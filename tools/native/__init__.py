"""What setup.py needs to compile the native libraries: finding tools and torch, the decision what to build, CMake.

Python's standard library only: this runs inside isolated builds, where neither torch nor the package can be imported.
"""

"""The pytest suite: what is measured (cases), by whom (providers), how a result is checked, and the tests."""

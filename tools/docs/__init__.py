"""The documentation: `python -m tools.docs` keeps its generated tables, `site` is the hook of mkdocs."""

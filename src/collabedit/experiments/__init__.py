"""Experiments as data: a TOML file becomes a grid of cells, these a table and figures."""

"""Topology schema, role configuration, names and protocol files: torch-free, all that the operator may import."""

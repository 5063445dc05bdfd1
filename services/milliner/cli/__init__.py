"""The command line: wiring only; commands import what they run when they run it."""

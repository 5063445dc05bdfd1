"""One package per serving strategy; they do not import one another."""

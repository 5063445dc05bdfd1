"""Value types, ports and errors that every layer above shares; imports neither torch nor any transport."""

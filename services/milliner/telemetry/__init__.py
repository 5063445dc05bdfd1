"""Phase names, request records, tracing and metrics."""

"""A whole model behind an HTTP server that others wrote: token ids in, token ids out."""

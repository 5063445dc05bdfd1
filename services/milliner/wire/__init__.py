"""Codecs, stream client and server, and the emulated link."""

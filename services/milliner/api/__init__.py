"""The OpenAI-compatible HTTP application of the device and its page."""

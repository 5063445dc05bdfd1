"""Milliner: large language models split between a cloud and the devices that people hold."""

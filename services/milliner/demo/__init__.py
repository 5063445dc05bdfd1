"""The demo model: a small Llama trained on redistributable text, its drafters and its held-out text.

`python -m milliner.demo --out DIR` makes all of it again; `milliner.demo.assets` says where the shipped copy lies.
"""

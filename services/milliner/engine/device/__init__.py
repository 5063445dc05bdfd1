"""The device's compute: its submodels, their KV caches and the draft tree of each request (`core.compute` in torch)."""

"""The device's side of the compute: slices, drafters and KV caches behind one executor."""

"""DeviceOnly: the device runs the whole model by itself. Baseline of P/D-Device and what it falls back to."""

"""CloudOnly: a whole model in the cloud answers, the device passes on. Baseline of P/D-Device and what it falls back
to."""

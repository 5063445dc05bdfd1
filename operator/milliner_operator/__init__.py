"""The Kubernetes operator: InferenceTopology objects become cloud and device pods; imports only `milliner.contract`."""

"""The Kubernetes operator: turns InferenceTopology objects into cloud and device pods; imports only `milliner.contract`."""

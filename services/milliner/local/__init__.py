"""Running a topology without Kubernetes, as processes of one machine."""

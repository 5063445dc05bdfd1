"""Pure builders of the objects that belong to a topology: values in, manifests out, nothing read or written."""

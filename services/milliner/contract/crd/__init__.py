"""The CustomResourceDefinition, made of the topology's schema and rules; `milliner crd` prints it."""

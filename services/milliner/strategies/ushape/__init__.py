"""UShape: the split model without speculation; with fixed chunks U-Sarathi, with Medusa heads U-Medusa."""

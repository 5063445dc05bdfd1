"""The U-shape baselines of the HAT paper: plain, U-Sarathi (fixed chunks), U-Medusa (Medusa heads)."""

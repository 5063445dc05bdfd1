"""The U-shape baselines of the HAT paper: plain (one token a round), U-Sarathi (fixed chunks), U-Medusa (Medusa heads)."""

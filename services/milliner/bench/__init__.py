"""Side-by-side measurements of the strategies, the engine and the drafters."""

"""Reviews of products: opinions, counted points, balanced samples, checked summaries."""

"""Pages and charts that reports are made of."""

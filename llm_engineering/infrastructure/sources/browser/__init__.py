"""Pages that need a real browser: one headless Chromium for a run, and the sources read through it."""

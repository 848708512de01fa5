"""What every request passes: keys, limits, slots, observation."""

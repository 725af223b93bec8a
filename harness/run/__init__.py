"""A grid of trials: plan, prepare, schedule, attempt, and what watches them."""

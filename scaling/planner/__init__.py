"""From a budget and a law to a plan: candidate shapes, constraints, search, sensitivity and recipe."""

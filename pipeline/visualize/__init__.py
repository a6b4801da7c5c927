"""Pictures of what a network looks for: the views of stage inspect, and their formulas."""

"""What `python -m benchmarks.step` is made of: cases, contestants, workers that time them, and the page."""

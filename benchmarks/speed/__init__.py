"""Parts of `python -m benchmarks.step`: cases, contestants, workers that time them, and the page."""

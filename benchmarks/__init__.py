"""Measurements, and the ordinary media that they, the tests and the demo are made on."""

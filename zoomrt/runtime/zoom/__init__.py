"""Zooming in a frame loop: crop, cache, deadline, view."""

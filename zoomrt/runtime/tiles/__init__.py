"""The arithmetic of tiles and pictures: plan, blend, colour, resampling."""

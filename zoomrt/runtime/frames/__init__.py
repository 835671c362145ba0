"""Frames as callers hand them over: pixel formats, array protocols, bytes."""

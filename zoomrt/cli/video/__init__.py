"""Videos: clips in, clips out, and what is carried over."""

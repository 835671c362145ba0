"""What runs on a GPU: device, streams, frames that stay there. Not run on one so far."""

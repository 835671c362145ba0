"""Building blocks of networks that families share."""

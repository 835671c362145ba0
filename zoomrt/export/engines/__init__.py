"""Compilers and runners: what turns graphs into engines, and which of them a bundle gets."""

"""Picture files: what is read and written, and with which library."""

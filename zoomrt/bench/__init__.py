"""trt-bench: how long an engine takes, how sure that is, how far the wall is, and what others take for the same."""

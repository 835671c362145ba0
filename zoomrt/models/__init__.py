"""WHAT a network is: families, their files and their building blocks, in torch FP32."""

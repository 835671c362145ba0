"""What a kernel cannot do without, bytes to and from memory and operations, and the time that they imply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """bytes : read and written, each once per pass that the kernel makes over them; caches are not counted on.
    operations : additions and multiplications, a multiply-add as two; of FP16 with FP32 sums for `attention`, else of
        FP32.
    """

    bytes: int
    operations: int

    def floor_us(self, gb_per_s: float, tflop_per_s: float) -> float:
        """Microseconds below which no run can be on a machine of that memory bandwidth and arithmetic peak."""
        return max(self.bytes / gb_per_s * 1e-3, self.operations / tflop_per_s * 1e-6)

    def bound(self, gb_per_s: float, tflop_per_s: float) -> str:
        """Which of the two is the floor: "memory" or "arithmetic"."""
        return "memory" if self.bytes / gb_per_s * 1e-3 >= self.operations / tflop_per_s * 1e-6 else "arithmetic"

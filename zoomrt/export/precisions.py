"""The precisions of a build, one record each. Pure data: imported by the command line, so it must not need torch.

A new precision is one record here; another package brings one by an entry point of the group `zoomrt.precisions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoomrt.registry import Registry
from zoomrt.runtime.backends import Arithmetic


@dataclass(frozen=True)
class Precision:
    """One row of the table.

    name : what the user types and the manifest holds.
    kind : what targets and backends say that they do; for variants, such as `int8-all` of `int8`, not the name.
    minimum_psnr_db : PSNR against torch FP32, peak = the value range, that every graph must keep; 0 where calibration
        sets the bar.
    storage : type of the graph's input, output and every value that is not in 8 bits; None for FP32 on a CPU and FP16
        on a GPU.
    arithmetics : what a CPU may compute such values in, by preference; see `Manifest.arithmetic`.
    eight_bit : number format of layers in 8 bits, which takes a calibration.
    gated : whether the calibration keeps layers in high precision until the picture is good enough.
    compute_capability : the lowest whose tensor cores do it; None for any target.
    allows_family_loss : whether `Family.parity_loss_db` lowers the bar.
    hint : for whoever asked for it where it cannot be had. processor : what a CPU needs for it, in words.
    instead : precision to advise then; None for the target's last one.
    """

    name: str
    kind: str
    minimum_psnr_db: float
    storage: Literal["fp32", "fp16"] | None = "fp32"
    arithmetics: tuple[Arithmetic, ...] = ("fp32",)
    eight_bit: Literal["int8", "fp8"] | None = None
    gated: bool = True
    compute_capability: int | None = None
    allows_family_loss: bool = True
    hint: str = ""
    processor: str = ""
    instead: str | None = None

    @property
    def narrow(self) -> bool:
        """Whether products are computed in fewer bits than FP32 even on a CPU, which ought to be faster."""
        return self.eight_bit is not None or "fp32" not in self.arithmetics

    def storage_on(self, device: str) -> Literal["fp32", "fp16"]:
        """device : of a backend, "cpu" or "cuda"."""
        return self.storage or ("fp32" if device == "cpu" else "fp16")


_ROWS = (
    Precision("fp32", "fp32", 80.0),  # differs by summation order only
    # below one 8-bit code value of RMS error (1.4) with room for the eye
    Precision("fp16", "fp16", 45.0, storage="fp16"),
    # BF16 rounds eight times coarser than FP16 (18 dB): `edge` has 63.5 dB or better on photograph and noise, Stable
    # Diffusion with random weights 43.6 dB; 40 dB, 2.6 code values, is what `--min-psnr` asks of 8-bit layers too
    Precision(
        "bf16",
        "bf16",
        40.0,
        arithmetics=("bf16",),
        allows_family_loss=False,
        hint="target cpu, whose OpenVINO has it; fp16 rounds eight times finer",
        processor="AMX or AVX-512 BF16 (AMD from Zen 4, Intel from Cooper Lake on)",
        instead="fp16",
    ),
    Precision("int8", "int8", 0.0, storage=None, arithmetics=("fp32", "bf16"), eight_bit="int8"),
    # every layer that can be, offered wherever `int8` is, to show the damage
    Precision("int8-all", "int8", 0.0, storage=None, arithmetics=("fp32", "bf16"), eight_bit="int8", gated=False),
    Precision("fp8", "fp8", 0.0, storage=None, eight_bit="fp8", compute_capability=89),
)
_OWN = {one.name: one for one in _ROWS}

PRECISIONS: Registry[Precision] = Registry("precision", "zoomrt.precisions", lambda: _OWN, lambda name: _OWN[name])
"""Every precision users know by name. zoomrt builds those whose kind a target's row lists."""

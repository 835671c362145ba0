"""The blend: adds up weighted tiles in float32 and hands out each output pixel once, when no later tile can change it.

Tiles come in raster order. Pixels shared with the tile to the right wait in `side`, which is one tile high; pixels
shared with the row below wait in `strip`, as wide as the frame and one seam high. Nothing else is kept, so memory
does not grow with the height of the frame and hardly with its width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.tiles.plan import TilePlan


class Blender:
    """Blends one frame.

    blender = Blender(plan)
    for index, tile in enumerate(tiles):
        rows, columns, block = blender.add(index, tile)
        out[:, rows, columns] = block
    """

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        rows, columns = plan.rows, plan.columns
        high, wide = rows.tile * rows.scale, columns.tile * columns.scale
        several_rows, several_columns = len(rows.spans) > 1, len(columns.spans) > 1
        self._block = np.empty((3, high, wide), np.float32)
        self._side = np.empty((3, high, columns.ramp.size if several_columns else 0), np.float32)
        self._strip = np.empty((3, rows.ramp.size if several_rows else 0, columns.size * columns.scale), np.float32)

    def add(self, index: int, tile: NDArray[Any]) -> tuple[slice, slice, NDArray[np.float32]]:
        """Take tile `index`, (3, tile height * scale, tile width * scale) of any float type.

        Returns the rows and columns of the output frame that are now final and their pixels, (3, rows, columns)
        float32 in the tile's own value range. The pixels are a buffer of the blender's: use them before the next call.
        """
        row, column = self._plan.position(index)
        y, x = self._plan.rows.spans[row], self._plan.columns.spans[column]
        high, wide = y.stop - y.start, x.stop - x.start
        block = self._block[:, :high, :wide]
        np.copyto(block, tile[:, y.offset : y.offset + high, x.offset : x.offset + wide])

        side = self._side[:, :high]
        if x.rise:
            left = block[:, :, : x.rise]
            left *= self._plan.columns.ramp
            left += side
        if x.fall:
            wide -= x.fall
            np.multiply(block[:, :, wide:], self._plan.columns.fade, out=side)

        strip = self._strip[:, :, x.start : x.done]
        if y.rise:
            top = block[:, : y.rise, :wide]
            top *= self._plan.rows.ramp[:, None]
            top += strip
        if y.fall:
            high -= y.fall
            np.multiply(block[:, high:, :wide], self._plan.rows.fade[:, None], out=strip)
        return slice(y.start, y.done), slice(x.start, x.done), block[:, :high, :wide]

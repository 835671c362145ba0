// Pixels in and out: a frame's rows as RGB in [0, 1], and finished rows as codes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../types.hpp"

namespace zoomrt::detail {

// Rows of a picture in RGB, [0, 1], in a ring: row y lies where row y - rows was.
struct Canvas {
  float* data = nullptr;
  int width = 0, rows = 0;
  float* row(int channel, int y) const noexcept {
    return data + (std::size_t(channel) * rows + y % rows) * std::size_t(width);
  }
  void clear(int from, int to) const noexcept {
    for (int y = from; y < to; ++y)
      for (int c = 0; c < 3; ++c) std::fill_n(row(c, y), width, 0.0f);
  }
};

// Codes of YUV and what they mean; zoomrt/runtime/frames/yuv.py.
struct Yuv {
  template <class Byte>
  explicit Yuv(const Image<Byte>& image) noexcept {
    static constexpr double weights[3][2] = {{0.299, 0.114}, {0.2126, 0.0722}, {0.2627, 0.0593}};
    const double* chosen = weights[static_cast<int>(image.matrix)];
    kr = static_cast<float>(chosen[0]), kb = static_cast<float>(chosen[1]),
    kg = static_cast<float>(1 - chosen[0] - chosen[1]);
    if (image.full_range) black = 0, luma = chroma = 255;
    down = image.siting == Siting::top_left ? 0 : 1, right = image.siting == Siting::center ? 1 : 0;
  }
  float kr, kg, kb, black = 16, luma = 219, chroma = 224;
  int down, right;  // where the first chroma sample lies, in halves of a pixel from the first pixel's middle
};

// A part of a frame's row as RGB in [0, 1]: pixels x .. x + count - 1.
inline void read_row(const Source& source, int y, int x, int count, float* red, float* green, float* blue) noexcept {
  const std::uint8_t* row = source.data + y * source.stride + std::ptrdiff_t{x} * source.step;
  if (source.format == Format::rgb) {
    for (int i = 0; i < count; ++i, row += source.step)
      red[i] = row[0] / 255.0f, green[i] = row[1] / 255.0f, blue[i] = row[2] / 255.0f;
    return;
  }
  const Yuv yuv(source);
  const int last_row = (source.size.height + 1) / 2 - 1, last = (source.size.width + 1) / 2 - 1;
  const int above = (2 * y - yuv.down) >> 2;  // floor, of a position in quarters
  const float low = static_cast<float>((2 * y - yuv.down) & 3) / 4;
  const std::ptrdiff_t top = std::clamp(above, 0, last_row) * source.chroma_stride,
                       below = std::clamp(above + 1, 0, last_row) * source.chroma_stride;
  const float luma_gain = 1 / yuv.luma, chroma_gain = 1 / yuv.chroma, to_red = 2 * (1 - yuv.kr),
              to_blue = 2 * (1 - yuv.kb);
  for (int i = 0; i < count; ++i, row += source.step) {
    const int position = 2 * (x + i) - yuv.right;
    const std::ptrdiff_t before = std::ptrdiff_t{std::clamp(position >> 2, 0, last)} * source.chroma_step;
    const std::ptrdiff_t after = std::ptrdiff_t{std::clamp((position >> 2) + 1, 0, last)} * source.chroma_step;
    const float across = static_cast<float>(position & 3) / 4;
    const auto sample = [&](const std::uint8_t* plane) {
      const float begin = plane[top + before] + (plane[below + before] - plane[top + before]) * low;
      const float end = plane[top + after] + (plane[below + after] - plane[top + after]) * low;
      return (begin + (end - begin) * across - 128) * chroma_gain;
    };
    const float luma = (row[0] - yuv.black) * luma_gain, u = sample(source.u), v = sample(source.v);
    red[i] = std::clamp(luma + to_red * v, 0.0f, 1.0f), blue[i] = std::clamp(luma + to_blue * u, 0.0f, 1.0f);
    green[i] = std::clamp(luma - (to_red * yuv.kr / yuv.kg * v + to_blue * yuv.kb / yuv.kg * u), 0.0f, 1.0f);
  }
}

inline std::uint8_t code(float value) noexcept {
  return static_cast<std::uint8_t>(std::rint(std::clamp(value, 0.0f, 255.0f)));
}

// One row of chroma, from four rows of the canvas: the triangle that reaches two pixels to either side of a sample.
inline void write_chroma(const Canvas& canvas, const Target& target, const Yuv& yuv, int y, float* line) noexcept {
  const auto tap = [](int k, int offset) {
    return std::max(0.0f, 2 - std::abs(static_cast<float>(k) - static_cast<float>(offset) / 2)) / 4;
  };
  const int width = target.size.width, height = target.size.height;
  for (const bool is_red : {false, true}) {
    std::fill_n(line, width, 0.0f);
    for (int k = -1; k < 3; ++k) {
      const int from = std::clamp(2 * y + k, 0, height - 1);
      const float *red = canvas.row(0, from), *green = canvas.row(1, from), *blue = canvas.row(2, from),
                  weight = tap(k, yuv.down);
      for (int x = 0; x < width; ++x)
        line[x] += weight * ((is_red ? red[x] : blue[x]) - (red[x] * yuv.kr + green[x] * yuv.kg + blue[x] * yuv.kb));
    }
    const float gain = yuv.chroma / (2 * (1 - (is_red ? yuv.kr : yuv.kb)));
    std::uint8_t* out = (is_red ? target.v : target.u) + y * target.chroma_stride;
    for (int x = 0; x < (width + 1) / 2; ++x, out += target.chroma_step) {
      float sum = 0;
      for (int k = -1; k < 3; ++k) sum += tap(k, yuv.right) * line[std::clamp(2 * x + k, 0, width - 1)];
      *out = code(sum * gain + 128);
    }
  }
}

// Rows from .. to - 1 of a finished canvas, cut to [0, 1]. Chroma needs rows on either side, so it follows as they
// come.
inline void write_rows(const Canvas& canvas, const Target& target, int from, int to, float* line) noexcept {
  const Yuv yuv(target);
  for (int y = from; y < to; ++y) {
    float *red = canvas.row(0, y), *green = canvas.row(1, y), *blue = canvas.row(2, y);
    for (float* plane : {red, green, blue})
      for (int x = 0; x < canvas.width; ++x) plane[x] = std::clamp(plane[x], 0.0f, 1.0f);
    std::uint8_t* out = target.data + y * target.stride;
    if (target.format == Format::rgb)
      for (int x = 0; x < canvas.width; ++x, out += target.step)
        out[0] = code(red[x] * 255), out[1] = code(green[x] * 255), out[2] = code(blue[x] * 255);
    else
      for (int x = 0; x < canvas.width; ++x, out += target.step)
        *out = code((red[x] * yuv.kr + green[x] * yuv.kg + blue[x] * yuv.kb) * yuv.luma + yuv.black);
  }
  if (target.format == Format::rgb) return;
  const auto ready = [&](int rows) { return rows == target.size.height ? (rows + 1) / 2 : std::max(rows - 1, 0) / 2; };
  for (int y = ready(from); y < ready(to); ++y) write_chroma(canvas, target, yuv, y, line);
}

template <class Byte>
Error check_image(const Image<Byte>& image, const char* what, Size largest) noexcept {
  const Size size = image.size;
  const bool yuv = image.format == Format::yuv420;
  if (size.width < 1 || size.height < 1 || size.width > largest.width || size.height > largest.height)
    return fail(Fault::input, "%s has %dx%d pixels; needed: 1x1 to %dx%d, of the options", what, size.width,
                size.height, largest.width, largest.height);
  if (!image.data || (yuv && !(image.u && image.v)))
    return fail(Fault::input, "%s has no pixels: a null pointer", what);
  const auto fits = [](std::ptrdiff_t stride, int step, int count, int bytes) {
    constexpr std::ptrdiff_t huge = std::numeric_limits<std::ptrdiff_t>::max() >> 20;
    const std::ptrdiff_t length = std::ptrdiff_t{count - 1} * step + bytes;
    return step >= bytes && step <= 64 && stride <= huge && stride >= -huge && (stride >= length || stride <= -length);
  };
  if (!fits(image.stride, image.step, size.width, yuv ? 1 : 3) ||
      (yuv && !fits(image.chroma_stride, image.chroma_step, (size.width + 1) / 2, 1)))
    return fail(Fault::input, "%s has rows that overlap: stride %lld, step %d, chroma %lld and %d, at %d pixels a row",
                what, static_cast<long long>(image.stride), image.step, static_cast<long long>(image.chroma_stride),
                image.chroma_step, size.width);
  if (static_cast<unsigned>(image.matrix) > 2 || static_cast<unsigned>(image.siting) > 2 ||
      static_cast<unsigned>(image.format) > 1)
    return fail(Fault::input, "%s has a format, matrix or siting that there is not", what);
  return {};
}

}  // namespace zoomrt::detail

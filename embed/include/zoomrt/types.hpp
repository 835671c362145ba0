// What a program hands to zoomrt and gets back: errors, pictures, crops, options. Included by zoomrt.hpp.
#pragma once

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace zoomrt {

constexpr int first_schema = 2, last_schema = 3;  // of manifests: zoomrt/bundle/manifest.py, SCHEMA
constexpr int max_side = 65535;                   // pixels of a frame

// What kind of thing went wrong: a damaged bundle; one that this header cannot run; a frame, view or crop that makes no
// sense; ONNX Runtime or its execution provider; no memory.
enum class Fault { none, bundle, unsupported, input, engine, memory };

struct [[nodiscard]] Error {
  Fault fault = Fault::none;
  char text[480] = "";  // one line of ASCII: what was seen, what is needed
  explicit operator bool() const noexcept { return fault != Fault::none; }
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
inline Error
fail(Fault fault, const char* format, ...) noexcept {
  Error error;
  error.fault = fault;
  va_list values;
  va_start(values, format);
  std::vsnprintf(error.text, sizeof error.text, format, values);
  va_end(values);
  for (char& letter : error.text)
    if (letter && (letter < 32 || letter > 126)) letter = '?';  // names in a bundle are anybody's
  return error;
}

struct Size {
  int width = 0, height = 0;
};

enum class Format { rgb, yuv420 };
enum class Matrix { bt601, bt709, bt2020 };
enum class Siting { left, center, top_left };  // where chroma lies: MPEG-2 and most cameras; JPEG; BT.2020 of broadcast

// Pixels that belong to the caller, 8 bits each. Strides are bytes from one row to the next, negative where the picture
// lies upside down; steps are bytes from one pixel to the next. `rgb`, `nv12` and `nv21` make the usual ones.
template <class Byte>
struct Image {
  Size size;
  Format format = Format::rgb;
  Byte* data = nullptr;  // red of the first pixel, with green and blue after it; or its luma
  std::ptrdiff_t stride = 0;
  int step = 3;       // 4: RGBA, whose alpha is neither read nor written
  Byte* u = nullptr;  // blue-difference chroma, a sample for 2x2 pixels; odd sides have one more than half
  Byte* v = nullptr;  // red-difference
  std::ptrdiff_t chroma_stride = 0;
  int chroma_step = 2;  // 1: planes (I420)
  Matrix matrix = Matrix::bt709;
  bool full_range = false;
  Siting siting = Siting::left;
};
using Source = Image<const std::uint8_t>;
using Target = Image<std::uint8_t>;

// stride 0: rows touch.
template <class Byte>
Image<Byte> rgb(Byte* data, Size size, std::ptrdiff_t stride = 0) noexcept {
  Image<Byte> image;
  image.size = size, image.data = data;
  image.stride = stride ? stride : std::ptrdiff_t{3} * size.width;
  return image;
}

template <class Byte>
Image<Byte> nv12(Byte* luma, Byte* chroma, Size size, std::ptrdiff_t stride = 0,
                 std::ptrdiff_t chroma_stride = 0) noexcept {
  Image<Byte> image;
  image.size = size, image.format = Format::yuv420, image.data = luma, image.step = 1;
  image.u = chroma, image.v = chroma ? chroma + 1 : nullptr;
  image.stride = stride ? stride : size.width;
  image.chroma_stride = chroma_stride ? chroma_stride : (std::ptrdiff_t{size.width} + 1) / 2 * 2;
  return image;
}

template <class Byte>
Image<Byte> nv21(Byte* luma, Byte* chroma, Size size, std::ptrdiff_t stride = 0,
                 std::ptrdiff_t chroma_stride = 0) noexcept {
  Image<Byte> image = nv12(luma, chroma, size, stride, chroma_stride);
  std::swap(image.u, image.v);
  return image;
}

// A part of a frame, in its pixels, whose edges are at whole numbers; fractions are exact.
struct Crop {
  double top = 0, left = 0, height = 0, width = 0;
};

// What a zoom of 1 to 64 shows in a view: at 1 the largest part of the frame that has the view's shape. (x, y): its
// middle, in fractions of the frame; it is moved to stay inside. Other numbers give a crop that `zoom` refuses.
inline Crop crop_of(Size frame, Size view, double zoom, double x = 0.5, double y = 0.5) noexcept {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const bool asked = zoom >= 1 && zoom <= 64 && x >= 0 && x <= 1 && y >= 0 && y <= 1;
  if (!asked || view.width < 1 || view.height < 1) return {none, none, none, none};
  const double high = frame.height, wide = frame.width;
  const double scale = std::min(high / view.height, wide / view.width) / zoom;
  const double height = std::min(view.height * scale, high), width = std::min(view.width * scale, wide);
  return {std::max(std::min(y * high - height / 2, high - height), 0.0),
          std::max(std::min(x * wide - width / 2, wide - width), 0.0), height, width};
}

struct Options {
  Size frame;          // the largest frame that will come
  Size view;           // the largest view of `zoom`; 0x0: it is not called
  bool whole = true;   // whether `upscale` is called, which takes room as wide as its result and as high as a tile's
  bool verify = true;  // hash the bundle's files; false compares their sizes
  int threads = 0;     // of ONNX Runtime; 0: its own choice
  // The execution provider as ONNX Runtime calls it ("QNNExecutionProvider", "XNNPACK"); none: its CPU code. `library`
  // is where a provider lies that comes as a plugin. Unless `cpu_fallback`, a graph that it does not take whole is an
  // error.
  std::string provider;
  std::vector<std::pair<std::string, std::string>> provider_options;
  std::filesystem::path library;
  bool cpu_fallback = false;
  std::vector<std::pair<std::string, std::string>> session_config;  // ONNX Runtime's own session entries
};

}  // namespace zoomrt

// zoomrt: a bundle's network in a C++17 program, over the C API of ONNX Runtime. The user's guide is docs/cpp.md.
//
//     zoomrt::Options options;
//     options.frame = {1920, 1080}, options.view = {1280, 720};
//     zoomrt::Upscaler upscaler;
//     if (zoomrt::Error error = upscaler.load("edge-fp32-cpu", options)) return complain(error.text);
//     zoomrt::Crop crop = zoomrt::crop_of({1920, 1080}, {1280, 720}, 3.0);
//     if (zoomrt::Error error = upscaler.zoom(camera_frame, crop, screen)) return complain(error.text);
//
// It does what zoomrt/runtime does, to one code: tiles/plan.py, tiles/blend.py, frames/yuv.py, zoom/view.py. Errors are
// values: nothing throws. After `load` nothing here allocates. One thread at a time may use an Upscaler.
#pragma once

#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "detail/axes.hpp"
#include "detail/bundle.hpp"
#include "detail/engine.hpp"
#include "detail/pixels.hpp"
#include "types.hpp"

namespace zoomrt {

class Upscaler {
 public:
  // Opens and verifies a bundle, loads its graph, makes all room that `options` ask for and runs the network once.
  // May be called again; after an error nothing is loaded.
  Error load(const std::filesystem::path& bundle, const Options& options) noexcept {
    engine_.reset();
    try {
      Error error = load_checked(bundle, options);
      if (error) engine_.reset();
      return error;
    } catch (const std::bad_alloc&) {
      engine_.reset();
      return fail(Fault::memory, "no memory for the bundle, frames of %dx%d and views of %dx%d", options.frame.width,
                  options.frame.height, options.view.width, options.view.height);
    } catch (const std::exception& problem) {
      engine_.reset();
      return fail(Fault::bundle, "cannot open the bundle: %.400s", problem.what());
    }
  }

  // Output pixels per frame pixel, each axis; 0 before `load`.
  int scale() const noexcept { return engine_ ? facts_.scale : 0; }

  // A whole frame into `target`, of `scale()` times its size. After an error the target may be written in part.
  Error upscale(const Source& source, const Target& target) noexcept {
    if (Error error = check("upscale", options_.whole, source)) return error;
    const Size size{source.size.width * facts_.scale, source.size.height * facts_.scale};
    if (Error error = detail::check_image(target, "the result", size)) return error;
    if (target.size.width != size.width || target.size.height != size.height)
      return fail(Fault::input, "the result has %dx%d pixels; needed: %dx%d", target.size.width, target.size.height,
                  size.width, size.height);
    rows_.plan(source.size.height), columns_.plan(source.size.width);
    const detail::Canvas canvas{canvas_.data(), size.width, facts_.height * facts_.scale + 3};
    int cleared = 0;
    for (const detail::Span& y : rows_.spans) {
      canvas.clear(cleared, y.stop), cleared = y.stop;
      for (const detail::Span& x : columns_.spans) {
        if (Error error = run_tile(source, y, x)) return error;
        blend(canvas, y, x);
      }
      detail::write_rows(canvas, target, y.start, y.stop - y.fall, line_.data());
    }
    return {};
  }

  // A part of a frame as a picture of the target's size: the network's pixels where the view enlarges, the frame's own
  // where it does not, both in between, as a Python ZoomSession without a budget has it. Each call runs the tiles that
  // the crop touches. network: false shows the frame alone, bicubic, which takes no engine and little time.
  Error zoom(const Source& source, const Crop& crop, const Target& target, bool network = true) noexcept {
    if (Error error = check("zoom", options_.view.width > 0, source)) return error;
    if (Error error = detail::check_image(target, "the view", options_.view)) return error;
    const double high = source.size.height, wide = source.size.width, slack = 1e-3;  // for rounding in sums
    if (!(crop.height > 0 && crop.width > 0 && crop.top >= 0 && crop.left >= 0 &&
          crop.top + crop.height <= high + slack && crop.left + crop.width <= wide + slack))
      return fail(Fault::input, "the crop is %g x %g at (%g, %g); needed: a part of the frame", crop.width, crop.height,
                  crop.left, crop.top);
    const detail::Canvas canvas{canvas_.data(), target.size.width, target.size.height};
    canvas.clear(0, target.size.height);
    const float share =
        network ? share_of(std::max(target.size.height / crop.height, target.size.width / crop.width)) : 0;
    if (share < 1) add_frame(source, crop, canvas, 1 - share);
    if (share > 0)
      if (Error error = add_network(source, crop, canvas, share)) return error;
    detail::write_rows(canvas, target, 0, target.size.height, line_.data());
    return {};
  }

 private:
  Error load_checked(const std::filesystem::path& bundle, const Options& options) {
    const auto within = [](Size size, int least) {
      return size.width >= least && size.height >= least && size.width <= max_side && size.height <= max_side;
    };
    if (!within(options.frame, 1) || !within(options.view, 0) || options.threads < 0 || options.threads > 1024)
      return fail(
          Fault::input,
          "the options make no sense: frame %dx%d, view %dx%d, %d threads; needed: sides to %d, 0 to 1024 threads",
          options.frame.width, options.frame.height, options.view.width, options.view.height, options.threads,
          max_side);
    std::string precision;
    std::filesystem::path graph;
    if (Error error = detail::open_bundle(bundle, options.verify, facts_, precision, graph)) return error;
    options_ = options;
    engine_ = std::make_unique<detail::Engine>();
    if (Error error = engine_->open(graph, facts_, precision, options)) return error;
    make_room();
    return engine_->run();
  }

  // All buffers, for the largest frame and view.
  void make_room() {
    const Facts& tile = facts_;
    const Size frame = options_.frame, view = options_.view;
    rows_.reserve(tile.height, tile.overlap, tile.context, tile.scale, frame.height);
    columns_.reserve(tile.width, tile.overlap, tile.context, tile.scale, frame.width);
    const bool zooms = view.width > 0;
    down_.reserve(frame.height * tile.scale, view.height, 3), across_.reserve(frame.width * tile.scale, view.width, 3);
    const auto area = [](double width, double height) { return static_cast<std::size_t>(3 * width * height); };
    const double large = double(frame.width) * tile.scale;
    const std::size_t whole = options_.whole ? area(large, tile.height * tile.scale + 3.0) : 0;
    canvas_.resize(std::max(whole, zooms ? area(view.width, view.height) : 0));
    line_.resize(static_cast<std::size_t>(3 * std::max({large, double(tile.width) * tile.scale, double(view.width)})));
    wide_.resize(static_cast<std::size_t>(view.width) * 3);
    places_.resize(static_cast<std::size_t>(tile.width)),
        weights_.resize(static_cast<std::size_t>(tile.width * tile.scale));
  }

  Error check(const char* call, bool allowed, const Source& source) const noexcept {
    if (!engine_) return fail(Fault::input, "cannot %s: nothing is loaded", call);
    if (!allowed) return fail(Fault::input, "cannot %s: the options of load left it out", call);
    return detail::check_image(source, "the frame", options_.frame);
  }

  // One tile of a frame, mirrored beyond it, through the network.
  Error run_tile(const Source& source, const detail::Span& y, const detail::Span& x) noexcept {
    const int high = facts_.height, wide = facts_.width, first = std::max(x.origin, 0),
              count = std::min(wide, source.size.width);
    const auto gain = static_cast<float>(facts_.high - facts_.low), low = static_cast<float>(facts_.low);
    for (int i = 0; i < wide; ++i) places_[i] = detail::reflect(x.origin + i, source.size.width) - first;
    for (int row = 0; row < high; ++row) {
      float *red = line_.data(), *green = red + count, *blue = green + count;
      detail::read_row(source, detail::reflect(y.origin + row, source.size.height), first, count, red, green, blue);
      const float* planes[3] = {red, green, blue};
      for (int c = 0; c < 3; ++c) {
        float* out = engine_->input.data() + (std::size_t(c) * high + row) * wide;
        for (int i = 0; i < wide; ++i) out[i] = planes[c][places_[i]] * gain + low;
      }
    }
    return engine_->run();
  }

  // A row of the network's answer, from output column x of the frame on.
  const float* answer(int channel, const detail::Span& y, const detail::Span& x, int row, int column) const noexcept {
    const std::size_t high = std::size_t(facts_.height) * facts_.scale, wide = std::size_t(facts_.width) * facts_.scale;
    return engine_->output.data() + (channel * high + (row - y.origin * facts_.scale)) * wide +
           (column - x.origin * facts_.scale);
  }

  void weigh_columns(const detail::Span& x) noexcept {
    for (int i = x.start; i < x.stop; ++i) weights_[i - x.start] = columns_.weight(x, i);
  }

  void blend(const detail::Canvas& canvas, const detail::Span& y, const detail::Span& x) noexcept {
    const auto gain = static_cast<float>(1 / (facts_.high - facts_.low)), low = static_cast<float>(facts_.low);
    weigh_columns(x);
    for (int row = y.start; row < y.stop; ++row) {
      const float weight = rows_.weight(y, row);
      for (int c = 0; c < 3; ++c) {
        const float* from = answer(c, y, x, row, x.start);
        float* to = canvas.row(c, row) + x.start;
        for (int i = 0; i < x.stop - x.start; ++i) to[i] += (from[i] - low) * gain * (weight * weights_[i]);
      }
    }
  }

  // The network's weight in a view, by view pixels per frame pixel: all of it from 1.5 on; zoomrt/runtime/zoom/crop.py.
  static float share_of(double magnification) noexcept {
    const double position = std::clamp((magnification - 1) / 0.5, 0.0, 1.0);
    return static_cast<float>(position * position * (3 - 2 * position));
  }

  // The resampled frame, times a share.
  void add_frame(const Source& source, const Crop& crop, const detail::Canvas& canvas, float share) noexcept {
    down_.plan(crop.top, crop.height, canvas.rows, source.size.height, 2, detail::bicubic);
    across_.plan(crop.left, crop.width, canvas.width, source.size.width, 2, detail::bicubic);
    const int first = across_.begin(), count = across_.end() - first;
    for (int row = down_.begin(); row < down_.end(); ++row) {
      float* red = line_.data();
      detail::read_row(source, row, first, count, red, red + count, red + 2 * count);
      add_row(canvas, row, first, count, share);
    }
  }

  // The blend of the tiles that the crop touches, resampled, times a share. Its weights are in the resampling, so the
  // blend itself is never made; values are cut and rounded to 16 bits first, as ZoomSession keeps them.
  Error add_network(const Source& source, const Crop& crop, const detail::Canvas& canvas, float share) noexcept {
    const int scale = facts_.scale;
    down_.plan(crop.top * scale, crop.height * scale, canvas.rows, source.size.height * scale, 3, detail::lanczos);
    across_.plan(crop.left * scale, crop.width * scale, canvas.width, source.size.width * scale, 3, detail::lanczos);
    rows_.plan(source.size.height), columns_.plan(source.size.width);
    const auto gain = static_cast<float>(1 / (facts_.high - facts_.low)), low = static_cast<float>(facts_.low);
    for (const detail::Span& y : rows_.spans) {
      if (y.stop <= down_.begin() || y.start >= down_.end()) continue;
      for (const detail::Span& x : columns_.spans) {
        if (x.stop <= across_.begin() || x.start >= across_.end()) continue;
        if (Error error = run_tile(source, y, x)) return error;
        weigh_columns(x);
        const int count = x.stop - x.start;
        for (int row = std::max(y.start, down_.begin()); row < std::min(y.stop, down_.end()); ++row) {
          for (int c = 0; c < 3; ++c) {
            const float* from = answer(c, y, x, row, x.start);
            for (int i = 0; i < count; ++i)
              line_[std::size_t(c) * count + i] =
                  std::rint(std::clamp((from[i] - low) * gain, 0.0f, 1.0f) * 65535) / 65535 * weights_[i];
          }
          add_row(canvas, row, x.start, count, share * rows_.weight(y, row));
        }
      }
    }
    return {};
  }

  // A row of the source, its pixels first .. first + count - 1 in `line_`, into all rows of the canvas that it has a
  // part in.
  void add_row(const detail::Canvas& canvas, int row, int first, int count, float share) noexcept {
    const auto [left, right] = across_.outputs(first, first + count);
    for (int c = 0; c < 3; ++c)
      for (int x = left; x < right; ++x) {
        const float* from = line_.data() + std::ptrdiff_t{c} * count;
        const int low = std::max(across_.first(x), first), high = std::min(across_.stop(x), first + count);
        const float* weights = across_.weights(x);
        float sum = 0;
        for (int i = low; i < high; ++i) sum += weights[i - across_.first(x)] * from[i - first];
        wide_[std::size_t(c) * canvas.width + x] = sum;
      }
    const auto [top, bottom] = down_.outputs(row, row + 1);
    for (int y = top; y < bottom; ++y) {
      const float weight = share * down_.weights(y)[row - down_.first(y)];
      for (int c = 0; c < 3; ++c) {
        const float* from = wide_.data() + std::ptrdiff_t{c} * canvas.width;
        float* to = canvas.row(c, y);
        for (int x = left; x < right; ++x) to[x] += weight * from[x];
      }
    }
  }

  using Facts = detail::Facts;
  Options options_;
  Facts facts_;
  std::unique_ptr<detail::Engine> engine_;
  detail::AxisPlan rows_, columns_;
  detail::Taps down_, across_;
  std::vector<float> canvas_;   // the picture in the making
  std::vector<float> line_;     // three rows of a frame or a tile
  std::vector<float> wide_;     // the same at the view's width
  std::vector<float> weights_;  // a tile's blend weights along its width
  std::vector<int> places_;     // frame pixels of a tile, along its width
};

}  // namespace zoomrt

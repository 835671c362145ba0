// An axis of a picture: how it is cut into tiles and blended, and how a part of it is resampled.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace zoomrt::detail {

inline int reflect(int index, int size) noexcept {
  if (size == 1) return 0;
  const int period = 2 * (size - 1), phase = (index % period + period) % period;
  return std::min(phase, period - phase);
}

// One tile along an axis: its first frame pixel, and which output pixels it answers for; zoomrt/runtime/tiles/plan.py.
struct Span {
  int origin, start, stop, rise, fall;
};

class AxisPlan {
 public:
  std::vector<Span> spans;

  void reserve(int tile, int overlap, int context, int scale, int largest) {
    tile_ = tile, stride_ = tile - overlap, context_ = context, scale_ = scale;
    const int length = std::min(overlap - 2 * context, stride_) * scale;
    ramp_.resize(static_cast<std::size_t>(length));
    for (int i = 0; i < length; ++i) ramp_[static_cast<std::size_t>(i)] = static_cast<float>((i + 0.5) / length);
    spans.reserve(static_cast<std::size_t>(std::max(largest - tile, 0) / stride_ + 2));
  }
  void plan(int size) noexcept {
    spans.clear();
    if (size <= tile_) return spans.push_back({-((tile_ - size) / 2), 0, size * scale_, 0, 0});
    const int count = (size - tile_ + stride_ - 1) / stride_ + 1, length = static_cast<int>(ramp_.size());
    for (int i = 0, seam = 0; i < count; ++i) {
      const bool first = i == 0, last = i == count - 1;
      const int origin = std::min(i * stride_, size - tile_),
                stop = last ? size * scale_ : (origin + tile_ - context_) * scale_;
      spans.push_back({origin, first ? 0 : seam - length, stop, first ? 0 : length, last ? 0 : length});
      seam = stop;
    }
  }
  float weight(const Span& span, int pixel) const noexcept {
    if (pixel < span.start + span.rise) return ramp_[static_cast<std::size_t>(pixel - span.start)];
    if (pixel >= span.stop - span.fall) return 1 - ramp_[static_cast<std::size_t>(pixel - (span.stop - span.fall))];
    return 1;
  }

 private:
  int tile_ = 1, stride_ = 1, context_ = 0, scale_ = 1;
  std::vector<float> ramp_;
};

inline double bicubic(double x) noexcept {  // Keys, a = -0.5
  x = std::abs(x);
  return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

inline double lanczos(double x) noexcept {
  constexpr double pi = 3.14159265358979323846;
  if (x == 0) return 1;
  return std::abs(x) < 3 ? 3 * std::sin(pi * x) * std::sin(pi * x / 3) / (pi * pi * x * x) : 0;
}

// How outputs are made from an axis of source pixels; zoomrt/runtime/tiles/resample.py.
class Taps {
 public:
  void reserve(int source, int count, double support) {
    first_.reserve(static_cast<std::size_t>(count)), stop_.reserve(static_cast<std::size_t>(count)),
        at_.reserve(static_cast<std::size_t>(count));
    weights_.reserve(static_cast<std::size_t>(2 * support * (double(source) + count)) +
                     2 * static_cast<std::size_t>(count) + 16);
  }
  void plan(double start, double length, int count, int size, double support, double (*kernel)(double)) noexcept {
    first_.clear(), stop_.clear(), at_.clear(), weights_.clear();
    const double step = length / count, stretch = std::max(step, 1.0), reach = support * stretch;
    for (int i = 0; i < count; ++i) {
      const double centre = start + (i + 0.5) * step;
      const int first = static_cast<int>(std::clamp(std::floor(centre - reach - 0.5) + 1, 0.0, size - 1.0));
      const int stop = static_cast<int>(std::clamp(std::ceil(centre + reach - 0.5), first + 1.0, double(size)));
      first_.push_back(first), stop_.push_back(stop), at_.push_back(weights_.size());
      double sum = 0;
      for (int pixel = first; pixel < stop; ++pixel) sum += kernel((pixel + 0.5 - centre) / stretch);
      for (int pixel = first; pixel < stop; ++pixel)
        weights_.push_back(static_cast<float>(kernel((pixel + 0.5 - centre) / stretch) / sum));
    }
  }
  int first(int output) const noexcept { return first_[static_cast<std::size_t>(output)]; }
  int stop(int output) const noexcept { return stop_[static_cast<std::size_t>(output)]; }
  // Of source pixels first(output) .. stop(output) - 1.
  const float* weights(int output) const noexcept { return weights_.data() + at_[static_cast<std::size_t>(output)]; }
  int begin() const noexcept { return first_.front(); }
  int end() const noexcept { return stop_.back(); }
  // Outputs that source pixels low .. high - 1 have a part in: from the first to one past the last.
  std::pair<int, int> outputs(int low, int high) const noexcept {
    const auto from = std::upper_bound(stop_.begin(), stop_.end(), low),
               to = std::lower_bound(first_.begin(), first_.end(), high);
    return {static_cast<int>(from - stop_.begin()), static_cast<int>(to - first_.begin())};
  }

 private:
  std::vector<int> first_, stop_;
  std::vector<std::size_t> at_;
  std::vector<float> weights_;
};

}  // namespace zoomrt::detail

// A camera app's loop: NV12 frames come in, an NV12 view of the zoomed crop goes to the screen, in the app's own
// buffers. The camera here is a moving pattern, so that the program runs anywhere:
//
//     camera_loop BUNDLE FRAMES
//
// Everything is allocated before the loop. A frame whose view would be late is shown without the network, which takes
// no engine; the app's own measure says when.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <zoomrt/zoomrt.hpp>

namespace {

constexpr zoomrt::Size frame_size{640, 360}, view_size{320, 180};
constexpr double budget_ms = 1000.0 / 3;

// What a driver does: writes the next frame into a buffer whose rows are aligned to 64 bytes.
constexpr std::ptrdiff_t stride = (frame_size.width + 63) / 64 * 64;
void grab(std::vector<std::uint8_t>& buffer, int number) {
  for (int y = 0; y < frame_size.height; ++y)
    for (int x = 0; x < frame_size.width; ++x)
      buffer[std::size_t(y * stride + x)] = std::uint8_t(16 + ((x + number) ^ y) % 220);
  std::fill(buffer.begin() + frame_size.height * stride, buffer.end(), std::uint8_t{128});
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) return std::fprintf(stderr, "usage: camera_loop BUNDLE FRAMES\n"), 1;
  zoomrt::Options options;
  options.frame = frame_size, options.view = view_size, options.whole = false;
  zoomrt::Upscaler upscaler;
  if (zoomrt::Error error = upscaler.load(words[1], options)) return std::fprintf(stderr, "%s\n", error.text), 1;

  std::vector<std::uint8_t> camera(std::size_t(stride * frame_size.height * 3 / 2));
  std::vector<std::uint8_t> screen(std::size_t(view_size.width * view_size.height * 3 / 2));
  const zoomrt::Source frame = zoomrt::nv12<const std::uint8_t>(
      camera.data(), camera.data() + stride * frame_size.height, frame_size, stride, stride);
  const zoomrt::Target view =
      zoomrt::nv12(screen.data(), screen.data() + view_size.width * view_size.height, view_size);

  double last_ms = 0;  // what the network took the last time
  const int frames = std::atoi(words[2]);
  for (int number = 0; number < frames; ++number) {
    grab(camera, number);
    const zoomrt::Crop crop = zoomrt::crop_of(frame_size, view_size, 2.0 + 0.01 * (number % 100), 0.6, 0.4);
    const bool network = last_ms <= budget_ms || number % 30 == 0;  // now and then: is it still too slow?
    const auto start = std::chrono::steady_clock::now();
    if (zoomrt::Error error = upscaler.zoom(frame, crop, view, network))
      return std::fprintf(stderr, "%s\n", error.text), 1;
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (network) last_ms = took.count();
    std::printf("frame %d: %s, %.1f ms\n", number, network ? "sharp" : "bicubic", took.count());
  }
  return 0;
}

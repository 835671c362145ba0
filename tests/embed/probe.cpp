// The header under test, one call a line from standard input, one line of answer each: "ok" or "KIND TEXT".
//
//     load BUNDLE FRAME_W FRAME_H VIEW_W VIEW_H WHOLE VERIFY [PROVIDER [LIBRARY]]
//     upscale IN OUT                           IN and OUT: a file and how its bytes are a picture (`Picture`)
//     zoom IN OUT TOP LEFT HEIGHT WIDTH NETWORK
//     crop FRAME_W FRAME_H VIEW_W VIEW_H ZOOM X Y
//     absurd IN                                calls that must each be refused; IN is a picture that fits
//
// Buffers are as long as their files, so that a sanitizer sees what reads or writes beyond them. Allocations of this
// program in `upscale` and `zoom` are an answer too: ONNX Runtime's own, in Run, are not counted.
#include <dlfcn.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <sstream>
#include <zoomrt/zoomrt.hpp>

static thread_local bool counting = false;
static thread_local long allocations = 0;

__attribute__((noinline)) void* operator new(std::size_t size) {
  allocations += counting;
  if (void* room = size > std::size_t{1} << 40 ? nullptr : std::malloc(size ? size : 1)) return room;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* room) noexcept { std::free(room); }
__attribute__((noinline)) void operator delete(void* room, std::size_t) noexcept { std::free(room); }

static decltype(OrtApi::Run) real_run;

static OrtStatus* uncounted_run(OrtSession* session, const OrtRunOptions* options, const char* const* inputs,
                                const OrtValue* const* given, size_t input_count, const char* const* outputs,
                                size_t output_count, OrtValue** made) {
  const bool before = std::exchange(counting, false);
  OrtStatus* status = real_run(session, options, inputs, given, input_count, outputs, output_count, made);
  counting = before;
  return status;
}

static const OrtApi* api_with_uncounted_run(uint32_t version) {
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(RTLD_NEXT, "OrtGetApiBase"))();
  static OrtApi api = *base->GetApi(version);
  if (api.Run != uncounted_run) real_run = std::exchange(api.Run, uncounted_run);
  return &api;
}

extern "C" const OrtApiBase* OrtGetApiBase() {
  static const OrtApiBase base{api_with_uncounted_run, [] { return "of the test"; }};
  return &base;
}

using Bytes = std::vector<std::uint8_t>;

// PATH FORMAT WIDTH HEIGHT OFFSET STRIDE STEP U V CHROMA_STRIDE CHROMA_STEP MATRIX FULL SITING, all of them.
struct Picture {
  std::string path, format;
  Bytes bytes;
  zoomrt::Target image;

  explicit Picture(std::istream& words) {
    std::ptrdiff_t offset = 0, u = 0, v = 0;
    int matrix = 0, siting = 0;
    words >> path >> format >> image.size.width >> image.size.height >> offset >> image.stride >> image.step >> u >>
        v >> image.chroma_stride >> image.chroma_step >> matrix >> image.full_range >> siting;
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    image.format = format == "rgb" ? zoomrt::Format::rgb : zoomrt::Format::yuv420;
    image.data = bytes.data() + offset, image.u = bytes.data() + u, image.v = bytes.data() + v;
    image.matrix = static_cast<zoomrt::Matrix>(matrix), image.siting = static_cast<zoomrt::Siting>(siting);
  }
  zoomrt::Source source() const {
    return {image.size, image.format,        image.data,        image.stride, image.step,       image.u,
            image.v,    image.chroma_stride, image.chroma_step, image.matrix, image.full_range, image.siting};
  }
  void save() const {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), std::ptrdiff_t(bytes.size()));
  }
};

static std::string answer(const zoomrt::Error& error) {
  static const char* kinds[] = {"ok", "bundle", "unsupported", "input", "engine", "memory"};
  return error ? std::string(kinds[int(error.fault)]) + " " + error.text : "ok";
}

template <class Call>
std::string counted(Call call) {
  allocations = 0, counting = true;
  const zoomrt::Error error = call();
  counting = false;
  return allocations ? "allocated " + std::to_string(allocations) : answer(error);
}

static std::string absurd(zoomrt::Upscaler& upscaler, const Picture& picture) {
  const zoomrt::Source good = picture.source();
  Bytes room(std::size_t(good.size.width) * good.size.height * 3 * 16, 7);
  const zoomrt::Size large{good.size.width * upscaler.scale(), good.size.height * upscaler.scale()};
  const zoomrt::Target out = zoomrt::rgb(room.data(), large), yuv = zoomrt::nv12(room.data(), room.data() + 1, large);
  const zoomrt::Target view = zoomrt::rgb(room.data(), {8, 8});
  const zoomrt::Crop crop{0, 0, 4, 4};
  int accepted = 0, count = 0;
  const auto refused = [&](const zoomrt::Error& error) {
    ++count;
    if (error.fault != zoomrt::Fault::input || !error.text[0])
      ++accepted, std::cerr << "accepted: number " << count << "\n";
  };
  const auto with = [](auto image, auto change) { return change(image), image; };
  for (const long stride : {0L, 1L, -1L, 3L * good.size.width - 1, 1L - 3L * good.size.width, 1L << 62, -(1L << 62)}) {
    refused(upscaler.upscale(with(good, [=](auto& i) { i.stride = stride; }), out));
    refused(upscaler.upscale(good, with(out, [=](auto& i) { i.stride = stride; })));
    refused(upscaler.upscale(good, with(yuv, [=](auto& i) {
                               i.chroma_stride =
                                   stride == 1L - 3L * good.size.width || stride == 3L * good.size.width - 1 ? 2
                                                                                                             : stride;
                             })));
    refused(upscaler.zoom(with(good, [=](auto& i) { i.stride = stride; }), crop, view));
  }
  for (const int step : {0, 1, 2, -3, 65, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    refused(upscaler.upscale(with(good, [=](auto& i) { i.step = step; }), out));
    refused(upscaler.upscale(good, with(out, [=](auto& i) { i.step = step; })));
    if (step < 1 || step > 2) refused(upscaler.upscale(good, with(yuv, [=](auto& i) { i.chroma_step = step; })));
  }
  for (const int side : {0, -1, 65536, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    refused(upscaler.upscale(with(good, [=](auto& i) { i.size.width = side; }), out));
    refused(upscaler.upscale(with(good, [=](auto& i) { i.size.height = side; }), out));
    refused(upscaler.upscale(good, with(out, [=](auto& i) { i.size.width = side; })));
    refused(upscaler.zoom(good, crop, with(view, [=](auto& i) { i.size.height = side; })));
  }
  refused(upscaler.upscale(good, with(out, [](auto& i) { --i.size.width; })));
  refused(upscaler.upscale(with(good, [](auto& i) { i.data = nullptr; }), out));
  refused(upscaler.upscale(good, with(out, [](auto& i) { i.data = nullptr; })));
  refused(upscaler.upscale(good, with(yuv, [](auto& i) { i.u = nullptr; })));
  refused(upscaler.upscale(good, with(yuv, [](auto& i) { i.v = nullptr; })));
  refused(upscaler.upscale(good, zoomrt::nv12<std::uint8_t>(room.data(), nullptr, large)));
  refused(upscaler.upscale(zoomrt::Source(), zoomrt::Target()));
  refused(upscaler.upscale(good, with(out, [](auto& i) { i.matrix = static_cast<zoomrt::Matrix>(3); })));
  refused(upscaler.upscale(good, with(out, [](auto& i) { i.siting = static_cast<zoomrt::Siting>(-1); })));
  refused(upscaler.upscale(good, with(out, [](auto& i) { i.format = static_cast<zoomrt::Format>(2); })));
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinite = std::numeric_limits<double>::infinity();
  for (const double number : {nan, infinite, -infinite, -1.0, 1e9, -1e300})
    for (double zoomrt::Crop::*field :
         {&zoomrt::Crop::top, &zoomrt::Crop::left, &zoomrt::Crop::height, &zoomrt::Crop::width})
      refused(upscaler.zoom(good, with(crop, [=](auto& c) { c.*field = number; }), view));
  refused(upscaler.zoom(good, {0, 0, 0, 4}, view));
  for (const double zoom : {0.99, 64.1, nan, -infinite})
    refused(upscaler.zoom(good, zoomrt::crop_of(good.size, {8, 8}, zoom), view));
  refused(upscaler.zoom(good, zoomrt::crop_of(good.size, {8, 8}, 2, 1.1, 0.5), view));
  refused(upscaler.zoom(good, zoomrt::crop_of(good.size, {0, 8}, 2), view));
  for (const std::uint8_t byte : room) accepted += byte != 7;
  return accepted ? "bad: " + std::to_string(accepted) : "refused " + std::to_string(count);
}

int main() {
  zoomrt::Upscaler upscaler;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string call;
    words >> call;
    if (call == "load") {
      std::string bundle, library;
      zoomrt::Options options;
      options.threads = 1;
      words >> bundle >> options.frame.width >> options.frame.height >> options.view.width >> options.view.height >>
          options.whole >> options.verify >> options.provider >> library;
      options.library = library;
      std::cout << answer(upscaler.load(bundle, options)) << std::endl;
    } else if (call == "upscale") {
      Picture in(words), out(words);
      const std::string said = counted([&] { return upscaler.upscale(in.source(), out.image); });
      out.save();
      std::cout << said << std::endl;
    } else if (call == "zoom") {
      Picture in(words), out(words);
      zoomrt::Crop crop;
      bool network = true;
      words >> crop.top >> crop.left >> crop.height >> crop.width >> network;
      const std::string said = counted([&] { return upscaler.zoom(in.source(), crop, out.image, network); });
      out.save();
      std::cout << said << std::endl;
    } else if (call == "crop") {
      zoomrt::Size frame, view;
      double zoom = 0, x = 0, y = 0;
      words >> frame.width >> frame.height >> view.width >> view.height >> zoom >> x >> y;
      const zoomrt::Crop crop = zoomrt::crop_of(frame, view, zoom, x, y);
      std::cout.precision(17);
      std::cout << crop.top << " " << crop.left << " " << crop.height << " " << crop.width << std::endl;
    } else if (call == "absurd") {
      std::cout << absurd(upscaler, Picture(words)) << std::endl;
    } else {
      std::cout << "unknown call" << std::endl;
    }
  }
}

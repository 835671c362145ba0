// Enlarges a picture, or shows a zoomed view of it:
//
//     zoom_cli BUNDLE IN.ppm OUT.ppm
//     zoom_cli BUNDLE IN.ppm OUT.ppm --view 1280x720 --zoom 3 --at 0.6,0.4
//     zoom_cli ... --provider QNNExecutionProvider --library libonnxruntime_providers_qnn.so --set
//     backend_path=libQnnHtp.so
//
// Pictures are binary PPM (P6, 8 bits), which every tool converts to and from: `magick in.png in.ppm`.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>
#include <zoomrt/zoomrt.hpp>

namespace {

struct Picture {
  zoomrt::Size size;
  std::vector<std::uint8_t> rgb;
};

// Nothing but a PPM of 8 bits with all of its pixels; a comment in its header is skipped.
bool read_ppm(const char* path, Picture& picture) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<std::uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
  std::size_t at = 2;
  if (bytes.size() < 2 || bytes[0] != 'P' || bytes[1] != '6') return false;
  const auto number = [&] {
    while (at < bytes.size() && (std::isspace(bytes[at]) || bytes[at] == '#'))
      if (bytes[at++] == '#')
        while (at < bytes.size() && bytes[at] != '\n') ++at;
    int value = 0;
    while (at < bytes.size() && std::isdigit(bytes[at]) && value < 100000) value = 10 * value + (bytes[at++] - '0');
    return value;
  };
  const int width = number(), height = number(), peak = number();
  const std::size_t pixels = std::size_t(width) * std::size_t(height);
  if (width < 1 || height < 1 || width > zoomrt::max_side || height > zoomrt::max_side || peak != 255) return false;
  if (++at > bytes.size() || (bytes.size() - at) / 3 < pixels) return false;
  picture.size = {width, height};
  picture.rgb.assign(bytes.begin() + std::ptrdiff_t(at), bytes.begin() + std::ptrdiff_t(at + 3 * pixels));
  return true;
}

bool write_ppm(const char* path, const Picture& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.size.width << " " << picture.size.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.rgb.data()), std::ptrdiff_t(picture.rgb.size()));
  return bool(file.flush());
}

int complain(const char* text) {
  std::fprintf(stderr, "zoom_cli: %s\n", text);
  return 1;
}

}  // namespace

int main(int count, char** words) {
  const char* usage =
      "usage: zoom_cli BUNDLE IN.ppm OUT.ppm [--view WxH] [--zoom Z] [--at X,Y] [--provider NAME] [--library PATH] "
      "[--set KEY=VALUE]...";
  if (count < 4) return complain(usage);
  zoomrt::Options options;
  double zoom = 1, x = 0.5, y = 0.5;
  for (int i = 4; i < count; i += 2) {
    const std::string name = words[i], value = i + 1 < count ? words[i + 1] : "";
    bool known = !value.empty();
    if (name == "--view")
      known = std::sscanf(value.c_str(), "%dx%d", &options.view.width, &options.view.height) == 2;
    else if (name == "--zoom")
      zoom = std::atof(value.c_str());
    else if (name == "--at")
      known = std::sscanf(value.c_str(), "%lf,%lf", &x, &y) == 2;
    else if (name == "--provider")
      options.provider = value;
    else if (name == "--library")
      options.library = value;
    else if (const std::size_t equals = value.find('='); name == "--set" && equals != std::string::npos)
      options.provider_options.emplace_back(value.substr(0, equals), value.substr(equals + 1));
    else
      known = false;
    if (!known) return complain(usage);
  }
  Picture in, out;
  if (!read_ppm(words[2], in)) return complain("cannot read the picture; needed: a binary PPM (P6) of 8 bits");
  const bool zooms = options.view.width > 0;
  options.frame = in.size, options.whole = !zooms;

  zoomrt::Upscaler upscaler;
  if (zoomrt::Error error = upscaler.load(words[1], options)) return complain(error.text);
  const int scale = upscaler.scale();
  out.size = zooms ? options.view : zoomrt::Size{in.size.width * scale, in.size.height * scale};
  out.rgb.resize(3 * std::size_t(out.size.width) * std::size_t(out.size.height));
  const zoomrt::Source source = zoomrt::rgb<const std::uint8_t>(in.rgb.data(), in.size);
  const zoomrt::Target target = zoomrt::rgb(out.rgb.data(), out.size);
  const zoomrt::Error error = zooms ? upscaler.zoom(source, zoomrt::crop_of(in.size, out.size, zoom, x, y), target)
                                    : upscaler.upscale(source, target);
  if (error) return complain(error.text);
  if (!write_ppm(words[3], out)) return complain("cannot write the picture");
  return 0;
}

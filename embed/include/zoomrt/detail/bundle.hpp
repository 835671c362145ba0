// The bundle: its manifest in the limits that zoomrt/bundle/manifest.py sets, and its files as the manifest lists them.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../types.hpp"
#include "sha256.hpp"

namespace zoomrt::detail {

using nlohmann::json;

// What the manifest says of one tile: zoomrt/bundle/manifest.py, TileFacts.
struct Facts {
  int scale = 0, height = 0, width = 0, overlap = 0, context = 0;
  double low = 0, high = 0;
};

inline const json& member(const json& object, const char* key) {
  static const json nothing;
  const auto found = object.find(key);  // end where it is no object
  return object.is_object() && found != object.end() ? *found : nothing;
}

inline std::string text_of(const json& value) { return value.is_string() ? value.get<std::string>() : std::string(); }

// A number of the manifest in its limits; the first that is not is kept in `error`.
inline double number(const json& value, const char* name, double low, double high, bool whole, Error& error) {
  const double seen = value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (seen >= low && seen <= high && (!whole || value.is_number_integer())) return seen;
  if (!error)
    error =
        fail(Fault::bundle, "manifest.json: field %s makes no sense; needed: a number from %g to %g", name, low, high);
  return low;
}

// The tile's facts, in the limits of `check_tile`.
inline Error read_tile(const json& tile, Facts& facts) {
  Error error;
  const auto field = [&](const char* name, int low, int high) {
    return static_cast<int>(number(member(tile, name), name, low, high, true, error));
  };
  facts.scale = field("scale", 1, 16);
  facts.height = field("height", 1, 16384);
  facts.width = field("width", 1, 16384);
  facts.overlap = field("overlap", 1, std::min(facts.height, facts.width) - 1);
  facts.context = field("context", 0, (facts.overlap - 1) / 2);
  const json& range = member(tile, "value_range");
  const bool pair = range.is_array() && range.size() == 2;
  facts.low = number(pair ? range[0] : json(), "value_range", -1e9, 1e9, false, error);
  facts.high = number(pair ? range[1] : json(), "value_range", -1e9, 1e9, false, error);
  if (!error && !(facts.low < facts.high))
    return fail(Fault::bundle, "manifest.json: field value_range makes no sense; needed: black below white");
  if (!error && std::ldexp(1.0, 31) < 1.0 * facts.height * facts.width * facts.scale * facts.scale)
    return fail(Fault::bundle, "manifest.json: a tile of more than 2^31 output pixels; needed: at most that");
  return error;
}

// What of a bundle this header cannot do; none where it can.
inline Error check_supported(const json& manifest) {
  const json& tile = member(manifest, "tile");
  const std::string backend = text_of(member(manifest, "backend")), precision = text_of(member(manifest, "precision"));
  const std::string dtype = text_of(member(tile, "dtype")), colour = text_of(member(member(tile, "colour"), "method"));
  const std::string arithmetic = text_of(member(manifest, "arithmetic"));
  const auto missing = [](const char* seen, const std::string& value, const char* needed) {
    return fail(Fault::unsupported, "this header cannot run the bundle: %s%.60s; needed: %s", seen, value.c_str(),
                needed);
  };
  if (backend != "onnxruntime" && !(backend == "openvino" && precision == "fp32"))
    return missing("backend ", backend, "a graph for ONNX Runtime (trt-build --backend onnxruntime)");
  if (!arithmetic.empty() && arithmetic != "fp32") return missing("arithmetic ", arithmetic, "fp32");
  if (!member(manifest, "sampling").is_null()) return missing("several steps", "", "a one-step model");
  if (!member(tile, "noise").is_null())
    return missing("start noise", "", "a model without; the noise map is not here yet");
  if (!colour.empty() && colour != "none") return missing("colour step ", colour, "colour step none");
  if (dtype != "float32") return missing("element type ", dtype, "float32 at the graph's input and output");
  return {};
}

inline bool is_inside(const std::string& name) {
  std::size_t start = 0;
  for (std::size_t i = 0; i <= name.size(); ++i) {
    if (i < name.size() && (static_cast<unsigned char>(name[i]) < 32 || name[i] == '\\' || name[i] == ':'))
      return false;
    if (i < name.size() && name[i] != '/') continue;
    const std::string part = name.substr(start, i - start);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    start = i + 1;
  }
  return name.size() <= 1000;
}

// A file is what the manifest lists.
inline Error check_file(const std::filesystem::path& path, const char* name, const json& entry, bool verify) {
  Error error;
  const double bytes = number(member(entry, "bytes"), "bytes", 0, 9e15, true, error);
  if (error) return error;
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code)) return fail(Fault::bundle, "bundle: file %.200s is missing", name);
  const auto size = static_cast<double>(std::filesystem::file_size(path, code));
  if (code || size != bytes)
    return fail(Fault::bundle, "bundle: file %.200s has %.0f bytes; needed: %.0f", name, size, bytes);
  if (!verify) return {};
  std::ifstream stream(path, std::ios::binary);
  std::vector<char> part(1 << 16);
  Sha256 sum;
  while (stream.read(part.data(), static_cast<std::streamsize>(part.size())) || stream.gcount() > 0)
    sum.add(reinterpret_cast<const unsigned char*>(part.data()), static_cast<std::size_t>(stream.gcount()));
  const std::string seen = sum.hex(), needed = text_of(member(entry, "sha256"));
  if (!stream.eof() || seen != needed)
    return fail(Fault::bundle, "bundle: file %.200s has sha256 %.16s; needed: %.16s", name, seen.c_str(),
                needed.c_str());
  return {};
}

// Reads and checks a bundle: its facts, its precision and its graph for one tile.
inline Error open_bundle(const std::filesystem::path& root, bool verify, Facts& facts, std::string& precision,
                         std::filesystem::path& graph) {
  std::error_code code;
  const std::filesystem::path place = root / "manifest.json";
  if (!std::filesystem::is_regular_file(place, code))
    return fail(Fault::bundle, "cannot open the bundle: no manifest.json in %.300s", root.string().c_str());
  if (std::filesystem::file_size(place, code) > (8u << 20) || code)
    return fail(Fault::bundle, "manifest.json has more than 8 MiB");
  std::ifstream stream(place, std::ios::binary);
  const json manifest = json::parse(stream, nullptr, false);
  if (!manifest.is_object()) return fail(Fault::bundle, "manifest.json is not a manifest; needed: a JSON object");
  Error error;
  const double schema = number(member(manifest, "schema"), "schema", 0, 1e6, true, error);
  if (error) return error;
  if (schema < first_schema || schema > last_schema)
    return fail(Fault::unsupported, "manifest.json has schema %.0f; this header reads %d to %d", schema, first_schema,
                last_schema);
  if ((error = check_supported(manifest)) || (error = read_tile(member(manifest, "tile"), facts))) return error;
  precision = text_of(member(manifest, "precision"));
  const json &files = member(manifest, "files"), &graphs = member(manifest, "graphs"),
             &engines = member(manifest, "engines");
  const std::string chosen = text_of(member(graphs, "1"));
  if (!member(files, chosen.c_str()).is_object())
    return fail(Fault::bundle, "manifest.json: field graphs has no file for one tile");
  for (const auto& [name, entry] : files.items()) {
    const auto named = [&name = name](const json& one) { return text_of(one) == name; };
    if (!is_inside(name))
      return fail(Fault::bundle, "manifest.json: file %.200s is not inside the bundle", name.c_str());
    const bool opened = name == chosen || !(std::any_of(graphs.begin(), graphs.end(), named) ||
                                            std::any_of(engines.begin(), engines.end(), named));
    if (!opened) continue;  // another batch size's; what is left may hold the graph's weights
    if ((error = check_file(root / std::filesystem::path(name), name.c_str(), entry, verify))) return error;
  }
  graph = root / std::filesystem::path(chosen);
  return {};
}

}  // namespace zoomrt::detail

// The network of a bundle in ONNX Runtime: one tile in, one enlarged tile out, in buffers that live as long as it does.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../types.hpp"
#include "bundle.hpp"

namespace zoomrt::detail {

class Engine {
 public:
  std::vector<float> input, output;  // (3, height, width) in the manifest's value_range, frame and output pixels

  Error open(const std::filesystem::path& graph, const Facts& facts, const std::string& precision,
             const Options& options) {
    if (!(api_ = OrtGetApiBase()->GetApi(ORT_API_VERSION)))
      return fail(Fault::engine, "ONNX Runtime %s is too old; needed: C API %d", OrtGetApiBase()->GetVersionString(),
                  ORT_API_VERSION);
    OrtEnv* env = nullptr;
    if (Error error = check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "zoomrt", &env), "cannot start ONNX Runtime"))
      return error;
    env_ = Owned<OrtEnv>(env, api_->ReleaseEnv);
    if (Error error = check(api_->DisableTelemetryEvents(env), "cannot silence telemetry")) return error;
    OrtSessionOptions* settings = nullptr;
    if (Error error = check(api_->CreateSessionOptions(&settings), "cannot start ONNX Runtime")) return error;
    const Owned<OrtSessionOptions> owned(settings, api_->ReleaseSessionOptions);
    if (Error error = configure(settings, precision, options)) return error;
    OrtSession* session = nullptr;
    if (Error error = check(api_->CreateSession(env, graph.c_str(), settings, &session), "cannot load the graph"))
      return error;
    session_ = Owned<OrtSession>(session, api_->ReleaseSession);
    return bind(facts);
  }

  // `input` through the network into `output`. Allocates nothing here; ONNX Runtime does for itself in its first run.
  Error run() noexcept {
    const char *in = input_name_.c_str(), *out = output_name_.c_str();
    const OrtValue* given = given_.get();
    OrtValue* made = made_.get();
    if (Error error = check(api_->Run(session_.get(), nullptr, &in, &given, 1, &out, 1, &made), "the engine failed"))
      return error;
    std::size_t bad = 0;
    for (const float value : output) bad += !(std::abs(value) <= std::numeric_limits<float>::max());
    if (bad) return fail(Fault::engine, "the engine failed: %zu of %zu values are not finite", bad, output.size());
    return {};
  }

 private:
  template <class Thing>
  using Owned = std::unique_ptr<Thing, void(ORT_API_CALL*)(Thing*)>;
  using Pairs = std::vector<std::pair<std::string, std::string>>;

  Error check(OrtStatus* status, const char* what) const noexcept {
    if (!status) return {};
    Error error = fail(Fault::engine, "%s: %.400s", what, api_->GetErrorMessage(status));
    api_->ReleaseStatus(status);
    return error;
  }

  Error configure(OrtSessionOptions* settings, const std::string& precision, const Options& options) const {
    Pairs entries = options.session_config;
    if (precision != "fp32" && precision != "fp16") entries.emplace_back("session.disable_quant_qdq", "1");
    const bool other = !options.provider.empty() && options.provider != "CPUExecutionProvider";
    if (other && !options.cpu_fallback) entries.emplace_back("session.disable_cpu_ep_fallback", "1");
    for (const auto& [key, value] : entries)
      if (Error error = check(api_->AddSessionConfigEntry(settings, key.c_str(), value.c_str()), key.c_str()))
        return error;
    if (Error error = check(api_->SetInterOpNumThreads(settings, 1), "threads")) return error;
    if (Error error = check(api_->SetIntraOpNumThreads(settings, options.threads), "threads")) return error;
    return options.provider.empty() ? Error() : append_provider(settings, options);
  }

  // By its name among the devices that ONNX Runtime knows, or else as one that was built into it.
  Error append_provider(OrtSessionOptions* settings, const Options& options) const {
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : options.provider_options)
      keys.push_back(key.c_str()), values.push_back(value.c_str());
    const char* name = options.provider.c_str();
#if ORT_API_VERSION >= 22
    std::vector<const OrtEpDevice*> devices;
    if (Error error = devices_of(name, devices)) return error;
    if (devices.empty() && !options.library.empty()) {
      if (Error error = check(api_->RegisterExecutionProviderLibrary(env_.get(), name, options.library.c_str()), name))
        return error;
      if (Error error = devices_of(name, devices)) return error;
    }
    if (!devices.empty())
      return check(api_->SessionOptionsAppendExecutionProvider_V2(settings, env_.get(), devices.data(), devices.size(),
                                                                  keys.data(), values.data(), keys.size()),
                   name);
#else
    if (!options.library.empty())
      return fail(Fault::unsupported, "a provider as a plugin needs the header of ONNX Runtime 1.22 or newer");
#endif
    return check(api_->SessionOptionsAppendExecutionProvider(settings, name, keys.data(), values.data(), keys.size()),
                 name);
  }

#if ORT_API_VERSION >= 22
  Error devices_of(const char* provider, std::vector<const OrtEpDevice*>& found) const {
    const OrtEpDevice* const* devices = nullptr;
    std::size_t count = 0;
    if (Error error = check(api_->GetEpDevices(env_.get(), &devices, &count), "cannot list devices")) return error;
    for (std::size_t i = 0; i < count; ++i)
      if (std::strcmp(api_->EpDevice_EpName(devices[i]), provider) == 0) found.push_back(devices[i]);
    return {};
  }
#endif

  Error bind(const Facts& facts) {
    const std::array<std::int64_t, 4> small{1, 3, facts.height, facts.width};
    const std::array<std::int64_t, 4> large{1, 3, std::int64_t{facts.height} * facts.scale,
                                            std::int64_t{facts.width} * facts.scale};
    if (Error error = check_node(true, small, input_name_)) return error;
    if (Error error = check_node(false, large, output_name_)) return error;
    if (Error error = tensor(small, input, given_)) return error;
    return tensor(large, output, made_);
  }

  // The one input, or output, is what the manifest says.
  Error check_node(bool is_input, const std::array<std::int64_t, 4>& shape, std::string& name) const {
    const char* what = is_input ? "the graph's input" : "the graph's output";
    std::size_t count = 0;
    const auto counter = is_input ? api_->SessionGetInputCount : api_->SessionGetOutputCount;
    if (Error error = check(counter(session_.get(), &count), what)) return error;
    if (count != 1) return fail(Fault::bundle, "%s: there are %zu; needed: 1", what, count);
    OrtAllocator* allocator = nullptr;
    char* text = nullptr;
    const auto named = is_input ? api_->SessionGetInputName : api_->SessionGetOutputName;
    if (Error error = check(api_->GetAllocatorWithDefaultOptions(&allocator), what)) return error;
    if (Error error = check(named(session_.get(), 0, allocator, &text), what)) return error;
    name = text;
    if (Error error = check(api_->AllocatorFree(allocator, text), what)) return error;
    OrtTypeInfo* type = nullptr;
    const auto typed = is_input ? api_->SessionGetInputTypeInfo : api_->SessionGetOutputTypeInfo;
    if (Error error = check(typed(session_.get(), 0, &type), what)) return error;
    const Owned<OrtTypeInfo> owned(type, api_->ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    if (Error error = check(api_->CastTypeInfoToTensorInfo(type, &tensor), what)) return error;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::array<std::int64_t, 4> found{};
    if (tensor) {
      if (Error error = check(api_->GetTensorElementType(tensor, &element), what)) return error;
      if (Error error = check(api_->GetDimensionsCount(tensor, &count), what)) return error;
      if (Error error = check(api_->GetDimensions(tensor, found.data(), std::min(count, found.size())), what))
        return error;
    }
    if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || count != 4 || found != shape)
      return fail(Fault::bundle, "%s does not match the manifest; needed: float (1, 3, %lld, %lld)", what,
                  static_cast<long long>(shape[2]), static_cast<long long>(shape[3]));
    return {};
  }

  Error tensor(const std::array<std::int64_t, 4>& shape, std::vector<float>& data, Owned<OrtValue>& value) const {
    data.assign(static_cast<std::size_t>(shape[1] * shape[2] * shape[3]), 0.0f);
    OrtMemoryInfo* place = nullptr;
    if (Error error =
            check(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &place), "cannot bind memory"))
      return error;
    const Owned<OrtMemoryInfo> owned(place, api_->ReleaseMemoryInfo);
    OrtValue* made = nullptr;
    OrtStatus* status =
        api_->CreateTensorWithDataAsOrtValue(place, data.data(), data.size() * sizeof(float), shape.data(),
                                             shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &made);
    if (Error error = check(status, "cannot bind memory")) return error;
    value = Owned<OrtValue>(made, api_->ReleaseValue);
    return {};
  }

  const OrtApi* api_ = nullptr;
  Owned<OrtEnv> env_{nullptr, nullptr};  // outlives what follows
  Owned<OrtSession> session_{nullptr, nullptr};
  Owned<OrtValue> given_{nullptr, nullptr}, made_{nullptr, nullptr};
  std::string input_name_, output_name_;
};

}  // namespace zoomrt::detail

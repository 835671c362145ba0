// What embed/ needs of ONNX Runtime's C API, for tests where its own header is not installed. The API is a table of
// function pointers that only ever grows, so a place in it is for ever: slots that are not called are left unnamed.
// Counted from the table of ONNX Runtime 1.21's header; a wrong slot crashes in the first call.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 22
#define ORT_API_CALL
#define ORTCHAR_T char

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_FATAL = 4 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT };

struct OrtAllocator;
struct OrtEnv;
struct OrtEpDevice;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

struct OrtApi {
  void* slot_0;
  void* slot_1;
  const char* (*GetErrorMessage)(const OrtStatus*);
  OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);
  void* slots_4[2];
  OrtStatus* (*DisableTelemetryEvents)(const OrtEnv*);
  OrtStatus* (*CreateSession)(const OrtEnv*, const ORTCHAR_T* path, const OrtSessionOptions*, OrtSession**);
  void* slot_8;
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* inputs, const OrtValue* const* given,
                    size_t input_count, const char* const* outputs, size_t output_count, OrtValue** made);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);
  void* slots_11[13];
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int);
  OrtStatus* (*SetInterOpNumThreads)(OrtSessionOptions*, int);
  void* slots_26[4];
  OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t*);
  OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*);
  void* slot_32;
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**);
  OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**);
  void* slot_35;
  OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t, OrtAllocator*, char**);
  OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t, OrtAllocator*, char**);
  void* slots_38[11];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* shape,
                                               size_t rank, ONNXTensorElementDataType, OrtValue**);
  void* slots_50[5];
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**);
  void* slots_56[4];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t);
  void* slots_63[6];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
  void* slots_70[6];
  OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);
  void* slot_77;
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
  void* slots_79[13];
  void (*ReleaseEnv)(OrtEnv*);
  void (*ReleaseStatus)(OrtStatus*);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
  void (*ReleaseSession)(OrtSession*);
  void (*ReleaseValue)(OrtValue*);
  void* slot_97;
  void (*ReleaseTypeInfo)(OrtTypeInfo*);
  void* slot_99;
  void (*ReleaseSessionOptions)(OrtSessionOptions*);
  void* slots_101[29];
  OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions*, const char* key, const char* value);
  void* slots_131[85];
  OrtStatus* (*SessionOptionsAppendExecutionProvider)(OrtSessionOptions*, const char* name, const char* const* keys,
                                                      const char* const* values, size_t);
  void* slots_217[84];
  OrtStatus* (*RegisterExecutionProviderLibrary)(OrtEnv*, const char* name, const ORTCHAR_T* path);
  void* slot_302;
  OrtStatus* (*GetEpDevices)(const OrtEnv*, const OrtEpDevice* const**, size_t*);
  OrtStatus* (*SessionOptionsAppendExecutionProvider_V2)(OrtSessionOptions*, OrtEnv*, const OrtEpDevice* const*, size_t,
                                                         const char* const* keys, const char* const* values, size_t);
  void* slots_305[7];
  const char* (*EpDevice_EpName)(const OrtEpDevice*);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

extern "C" const OrtApiBase* OrtGetApiBase();

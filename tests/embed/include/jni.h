// Stand-in for the NDK's jni.h: what docs/android.md calls, so that it compiles.
#pragma once

#include <cstdint>

#define JNIEXPORT
#define JNICALL

using jint = std::int32_t;
using jlong = std::int64_t;
using jdouble = double;
using jobject = struct JavaObject*;
using jstring = jobject;
using jclass = jobject;

struct JNIEnv {
  jclass FindClass(const char* name);
  jint ThrowNew(jclass kind, const char* message);
  const char* GetStringUTFChars(jstring, std::uint8_t* is_copy);
  void ReleaseStringUTFChars(jstring, const char*);
  void* GetDirectBufferAddress(jobject);
};

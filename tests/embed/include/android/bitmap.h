// Stand-in for the NDK's android/bitmap.h, as the jni.h beside it.
#pragma once

#include <jni.h>

enum { ANDROID_BITMAP_FORMAT_RGBA_8888 = 1 };

struct AndroidBitmapInfo {
  std::uint32_t width, height, stride;
  std::int32_t format;
};

int AndroidBitmap_getInfo(JNIEnv*, jobject bitmap, AndroidBitmapInfo*);
int AndroidBitmap_lockPixels(JNIEnv*, jobject bitmap, void** pixels);
int AndroidBitmap_unlockPixels(JNIEnv*, jobject bitmap);

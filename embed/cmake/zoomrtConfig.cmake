# find_package(zoomrt) gives the target zoomrt::zoomrt: the header, and the two libraries that it needs. The one place
# that names them:
#   nlohmann_json   header only; Debian: nlohmann-json3-dev
#   onnxruntime     the package of its releases or of Debian 13 (libonnxruntime-dev); or where these two point to:
#     ONNXRUNTIME_INCLUDE   folder with onnxruntime_c_api.h
#     ONNXRUNTIME_LIBRARY   libonnxruntime.so, .dylib or .lib
cmake_minimum_required(VERSION 3.16)
include(CMakeFindDependencyMacro)
find_dependency(nlohmann_json 3.9)

set(ONNXRUNTIME_INCLUDE "" CACHE PATH "Folder with onnxruntime_c_api.h; empty: find_package(onnxruntime)")
set(ONNXRUNTIME_LIBRARY "" CACHE FILEPATH "ONNX Runtime's library; empty: find_package(onnxruntime)")
if(ONNXRUNTIME_INCLUDE OR ONNXRUNTIME_LIBRARY)
  if(NOT EXISTS "${ONNXRUNTIME_INCLUDE}/onnxruntime_c_api.h" OR NOT EXISTS "${ONNXRUNTIME_LIBRARY}")
    set(zoomrt_FOUND FALSE)
    set(zoomrt_NOT_FOUND_MESSAGE "ONNXRUNTIME_INCLUDE='${ONNXRUNTIME_INCLUDE}' has no onnxruntime_c_api.h, or "
        "ONNXRUNTIME_LIBRARY='${ONNXRUNTIME_LIBRARY}' is not there; both are needed")
    return()
  endif()
elseif(NOT TARGET onnxruntime::onnxruntime)
  find_dependency(onnxruntime)
endif()

# beside the sources, or installed in lib/cmake/zoomrt
find_path(ZOOMRT_INCLUDE zoomrt/zoomrt.hpp NO_DEFAULT_PATH
          HINTS "${CMAKE_CURRENT_LIST_DIR}/../include" "${CMAKE_CURRENT_LIST_DIR}/../../../include")

if(NOT TARGET zoomrt::zoomrt)
  add_library(zoomrt::zoomrt INTERFACE IMPORTED)
  target_include_directories(zoomrt::zoomrt INTERFACE "${ZOOMRT_INCLUDE}")
  target_compile_features(zoomrt::zoomrt INTERFACE cxx_std_17)
  target_link_libraries(zoomrt::zoomrt INTERFACE nlohmann_json::nlohmann_json)
  if(ONNXRUNTIME_INCLUDE)
    target_include_directories(zoomrt::zoomrt INTERFACE "${ONNXRUNTIME_INCLUDE}")
    target_link_libraries(zoomrt::zoomrt INTERFACE "${ONNXRUNTIME_LIBRARY}")
  else()
    target_link_libraries(zoomrt::zoomrt INTERFACE onnxruntime::onnxruntime)
  endif()
endif()

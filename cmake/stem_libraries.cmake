# The libraries that the rooms link, each as a target stem_lib_<name>. Distributions differ in which CMake packages they
# ship, so a package's own target is taken where there is one, and header and library are looked for otherwise.

# stem_library(fmt DEBIAN libfmt-dev HEADER fmt/core.h [LIBRARY fmt] [PACKAGE fmt TARGET fmt::fmt])
# Without LIBRARY the header is enough.
function(stem_library NAME)
  cmake_parse_arguments(ARG "" "DEBIAN;HEADER;LIBRARY;PACKAGE;TARGET" "" ${ARGN})
  add_library(stem_lib_${NAME} INTERFACE)
  if(ARG_PACKAGE)
    find_package(${ARG_PACKAGE} QUIET CONFIG)
    if(TARGET ${ARG_TARGET})
      target_link_libraries(stem_lib_${NAME} INTERFACE ${ARG_TARGET})
      return()
    endif()
  endif()
  string(TOUPPER ${NAME} UPPER)
  find_path(STEM_${UPPER}_INCLUDE ${ARG_HEADER})
  mark_as_advanced(STEM_${UPPER}_INCLUDE)
  if(NOT STEM_${UPPER}_INCLUDE)
    message(FATAL_ERROR "${ARG_HEADER} not found. On Debian and Ubuntu: apt-get install ${ARG_DEBIAN}")
  endif()
  target_include_directories(stem_lib_${NAME} SYSTEM INTERFACE ${STEM_${UPPER}_INCLUDE})
  if(ARG_LIBRARY)
    find_library(STEM_${UPPER}_LIBRARY ${ARG_LIBRARY})
    mark_as_advanced(STEM_${UPPER}_LIBRARY)
    if(NOT STEM_${UPPER}_LIBRARY)
      message(FATAL_ERROR "lib${ARG_LIBRARY} not found. On Debian and Ubuntu: apt-get install ${ARG_DEBIAN}")
    endif()
    target_link_libraries(stem_lib_${NAME} INTERFACE ${STEM_${UPPER}_LIBRARY})
  endif()
endfunction()

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
stem_library(fmt DEBIAN libfmt-dev PACKAGE fmt TARGET fmt::fmt HEADER fmt/core.h LIBRARY fmt)
stem_library(json DEBIAN nlohmann-json3-dev PACKAGE nlohmann_json TARGET nlohmann_json::nlohmann_json
  HEADER nlohmann/json.hpp)
stem_library(cli11 DEBIAN libcli11-dev PACKAGE CLI11 TARGET CLI11::CLI11 HEADER CLI/CLI.hpp)
stem_library(toml DEBIAN libtomlplusplus-dev PACKAGE tomlplusplus TARGET tomlplusplus::tomlplusplus
  HEADER toml++/toml.h)
stem_library(pcre2 DEBIAN libpcre2-dev HEADER pcre2.h LIBRARY pcre2-8)
stem_library(utf8proc DEBIAN libutf8proc-dev HEADER utf8proc.h LIBRARY utf8proc)
stem_library(hwy DEBIAN libhwy-dev HEADER hwy/highway.h LIBRARY hwy)
stem_library(httplib DEBIAN libcpp-httplib-dev HEADER httplib.h LIBRARY cpp-httplib)
# As Debian's library was built: the layout of its classes depends on it.
target_compile_definitions(stem_lib_httplib INTERFACE CPPHTTPLIB_OPENSSL_SUPPORT)
# No package: Debian's dnnl-config.cmake also demands OpenCL, which the CPU engine does not need.
stem_library(dnnl DEBIAN libdnnl-dev HEADER oneapi/dnnl/dnnl.hpp LIBRARY dnnl)

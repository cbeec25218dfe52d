# How every target of plumb is built: one language level, one set of warnings, one way
# to declare a library and its unit tests.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

find_program(CCACHE ccache)
if(CCACHE)
  # Without the tree's own path, so that a fresh clone finds what another compiled.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
    ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
endif()

find_package(Threads REQUIRED)

set(PLUMB_SANITIZE "" CACHE STRING "Value for -fsanitize=, empty for none")

add_library(plumb_options INTERFACE)
target_include_directories(plumb_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(plumb_options INTERFACE
  -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers
  -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough -fno-strict-aliasing
  # g++ 12 sees bounds broken inside its own std::vector when it optimises (GCC bug 105562 and kin).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds> $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>)
target_compile_definitions(plumb_options INTERFACE _FILE_OFFSET_BITS=64)
# libstdc++ and libgcc are linked statically: plumb-vm starts in milliseconds because the
# dynamic loader has little to do.
target_link_options(plumb_options INTERFACE -static-libgcc -Wl,--as-needed)
if(PLUMB_SANITIZE)
  target_compile_options(plumb_options INTERFACE
    -fsanitize=${PLUMB_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    # g++ 12 is wrong about instrumented code, and says that Boost's fences are not followed.
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  target_link_options(plumb_options INTERFACE -fsanitize=${PLUMB_SANITIZE})
else()
  # Not beside -static-pie, which g++ would quietly drop.
  target_link_options(plumb_options INTERFACE
    $<$<NOT:$<BOOL:$<TARGET_PROPERTY:PLUMB_STATIC>>>:-static-libstdc++>)
endif()
find_program(LLD ld.lld)
if(LLD)
  target_link_options(plumb_options INTERFACE -fuse-ld=lld)
endif()

# plumb_library(NAME SOURCES a.cc … DEPS x …)
function(plumb_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC plumb_options Threads::Threads ${ARG_DEPS})
endfunction()

# plumb_unit_test(NAME SOURCES a_test.cc … DEPS x … [LABEL host]): one Catch2 program; each of its
# test cases is a CTest entry with the label "unit" (anywhere, seconds) or the one given. A test
# that cannot run here prints "SKIPPED: REASON" and returns.
function(plumb_unit_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_LABEL)
    set(ARG_LABEL unit)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE -O0)  # what is tested is optimised, the tests need not be
  target_link_libraries(${name} PRIVATE plumb_catch_main ${ARG_DEPS})
  if(ARG_LABEL STREQUAL "unit")
    add_dependencies(unit_tests ${name})
  else()
    add_dependencies(host_unit_tests ${name})  # those that need more than any machine has
  endif()
  catch_discover_tests(${name} TEST_PREFIX "${name}: "
    PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 300 SKIP_REGULAR_EXPRESSION "SKIPPED: ")
endfunction()

add_custom_target(unit_tests)
add_custom_target(host_unit_tests)

find_package(Catch2 2 REQUIRED)
include(Catch)

add_library(plumb_catch_main STATIC ${CMAKE_SOURCE_DIR}/tests/catch_main.cc)
target_compile_options(plumb_catch_main PRIVATE -O0)
target_link_libraries(plumb_catch_main PUBLIC plumb_options)

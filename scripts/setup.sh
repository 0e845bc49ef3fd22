#!/usr/bin/env bash
# Installs what the toolkit needs and lacks: Deno, from the npm package `deno`, and a Vulkan driver if there is no GPU adapter.
# Prints what it will install before it does. Run it; or, to get its PATH, source it and call compresso_setup.
# On Debian and Ubuntu it installs both. Elsewhere it installs only Deno, and names the driver to install.

compresso_setup() {
  local need_major=2 need_minor=9
  # Where npm puts programs for one user; an earlier run may have done so.
  local home_bin="$HOME/.local/bin"
  if ! deno_is_recent "$need_major" "$need_minor" && [ -x "$home_bin/deno" ]; then
    PATH="$home_bin:$PATH"
    hash -r
    say "Deno is in $home_bin: put that into your PATH"
  fi
  export PATH

  if ! deno_is_recent "$need_major" "$need_minor"; then
    install_deno || return 1
    hash -r
    if ! deno_is_recent "$need_major" "$need_minor"; then
      complain "Deno $need_major.$need_minor or newer was installed but does not run: try 'deno --version'"
      return 1
    fi
  fi
  say "Deno $(deno_version)"

  if ! has_adapter; then
    install_driver || return 1
    if ! has_adapter; then
      complain "there is still no GPU adapter: run 'deno run -A cli/main.ts doctor'"
      return 1
    fi
  fi
  say "GPU adapter: $(adapter_name)"
}

# Programs that some tests run, if apt has them: a Chromium for pages, Open MPI for runs of several processes.
# These functions never fail: without a program, its tests are left out and say so.
compresso_setup_browser() {
  install_for_tests "Chromium" "tests of pages" "chromium chromium-browser google-chrome google-chrome-stable" \
    chromium fonts-dejavu-core
}
compresso_setup_mpi() {
  install_for_tests "MPI" "tests of several ranks" mpirun openmpi-bin libopenmpi40
}
# Dawn, a second WebGPU: 51 MB to download, 132 MB on disk.
compresso_setup_dawn() {
  say "will download where it is missing: npm:webgpu@0.6.2 (Dawn, 51 MB), for the tests of another WebGPU"
  deno cache -q --no-lock npm:webgpu@0.6.2 >&2 || say "it could not be downloaded: tests of another WebGPU are left out"
}

# install_for_tests NAME WHAT PROGRAMS PACKAGE…: nothing where one of the programs is there.
install_for_tests() {
  local name=$1 what=$2 programs=$3 program as_root=()
  shift 3
  for program in $programs; do
    if command -v "$program" >/dev/null 2>&1; then
      say "$name: $(command -v "$program")"
      return 0
    fi
  done
  if ! command -v apt-get >/dev/null 2>&1; then
    say "there is no $name, and no apt-get to install it: $what are left out"
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    # No question may stop a script that nobody watches.
    if ! sudo -n true 2>/dev/null; then
      say "there is no $name, and installing it needs root: $what are left out"
      return 0
    fi
    as_root=(sudo -n)
  fi
  say "will install: $*, for the $what (${as_root[*]:+sudo }apt-get install)"
  "${as_root[@]}" apt-get update -q >&2 || say "apt-get update met errors; going on with the lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 ||
    say "apt-get could not install it: $what are left out"
}

say() { printf 'setup: %s\n' "$*" >&2; }
complain() { printf 'setup: cannot continue: %s\n' "$*" >&2; }

deno_version() { deno --version 2>/dev/null | sed -n '1s/^deno \([0-9.]*\).*/\1/p'; }

deno_is_recent() {
  local version major minor
  command -v deno >/dev/null 2>&1 || return 1
  version=$(deno_version)
  major=${version%%.*}
  minor=${version#*.}
  minor=${minor%%.*}
  [ -n "$major" ] && [ -n "$minor" ] || return 1
  [ "$major" -gt "$1" ] || { [ "$major" -eq "$1" ] && [ "$minor" -ge "$2" ]; }
}

install_deno() {
  if ! command -v npm >/dev/null 2>&1; then
    complain "neither Deno 2.9 nor npm is there; install Node.js with npm (Debian: apt-get install nodejs npm), or Deno itself"
    return 1
  fi
  local root
  root=$(npm root --global)
  while [ ! -e "$root" ]; do root=$(dirname "$root"); done
  # npm may warn that it left out install scripts; Deno's package works without them.
  if [ -w "$root" ]; then
    say "will install: Deno (npm install --global deno)"
    npm install --global --no-fund --no-audit deno >&2 || { older_deno; return 1; }
    # An older one may stand before it.
    older_deno
    PATH="$(npm prefix --global)/bin:$PATH"
    export PATH
  else
    say "will install: Deno for this user (npm install --global --prefix $HOME/.local deno)"
    npm install --global --prefix "$HOME/.local" --no-fund --no-audit deno >&2 || { older_deno; return 1; }
    PATH="$HOME/.local/bin:$PATH"
    export PATH
    say "in other terminals, put $HOME/.local/bin on the PATH"
  fi
}

# Says which older Deno stands in the way, if one does.
older_deno() {
  local old
  old=$(command -v deno) || return 0
  [ "$old" = "$(npm prefix --global)/bin/deno" ] && deno_is_recent 2 9 && return 0
  say "$old is Deno $(deno_version): upgrade it (deno upgrade), remove it, or put $(npm prefix --global)/bin before it on the PATH"
}

adapter_name() {
  NO_COLOR=1 deno eval 'console.log((await navigator.gpu?.requestAdapter())?.info.description ?? "")' 2>/dev/null
}

has_adapter() { [ -n "$(adapter_name)" ]; }

install_driver() {
  local as_root=()
  if ! command -v apt-get >/dev/null 2>&1; then
    complain "there is no GPU adapter; install your GPU's driver or a Vulkan driver for the CPU (Mesa's lavapipe) and try again"
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      complain "there is no GPU adapter, and installing one needs root: as root, run 'apt-get install mesa-vulkan-drivers'"
      return 1
    fi
    as_root=(sudo)
  fi
  say "will install: mesa-vulkan-drivers, a Vulkan driver (${as_root[*]:+sudo }apt-get install mesa-vulkan-drivers)"
  # One broken list among others must not stop it.
  "${as_root[@]}" apt-get update -q >&2 || say "apt-get update met errors; going on with the lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends mesa-vulkan-drivers >&2
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  compresso_setup
fi

#!/usr/bin/env bash
# Everything that a machine without internet needs to install Fedward: one tar file of wheels and constraints.
# Run it on a machine of the same kind (Linux, same Python and processor) that reaches a package index.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/offline/make-bundle.sh [EXTRA] [FILE]

  EXTRA   site (a hospital), hub, or sim (the default: one machine that plays both)
  FILE    the bundle to write (default: fedward-EXTRA.tar)

Example: deploy/offline/make-bundle.sh site fedward-site.tar
On the machine without internet:
  tar -xf fedward-site.tar && python3 -m venv fedward-env
  fedward-env/bin/pip install --no-index --find-links fedward-bundle --constraint fedward-bundle/constraints.txt 'fedward[site]'
TEXT
}

case "${1:-}" in -h | --help) usage; exit 0 ;; esac
extra=${1:-sim}
file=$(realpath "${2:-fedward-$extra.tar}")
case "$extra" in site | hub | sim) ;; *) usage >&2; exit 2 ;; esac

root=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
bundle=$scratch/fedward-bundle
python=${PYTHON:-python3}

"$python" -m pip wheel --quiet --no-deps --wheel-dir "$bundle" "$root"
cp "$root/constraints.txt" "$bundle/"
# torch first and by itself: with its version fixed, no other package can pull a larger build of it
"$python" -m pip download --quiet --only-binary=:all: --dest "$bundle" --constraint "$bundle/constraints.txt" torch
"$python" -m pip download --quiet --prefer-binary --dest "$bundle" --find-links "$bundle" \
  --constraint "$bundle/constraints.txt" "fedward[$extra] @ file://$(ls "$bundle"/fedward-*.whl)"
tar -C "$scratch" -cf "$file.part" fedward-bundle
mv "$file.part" "$file"
echo "$file: $(du -h "$file" | cut -f1), $(ls "$bundle" | wc -l) files"

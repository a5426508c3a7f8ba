#!/bin/sh
# Collect what a GPU machine without a network lacks: wheels of what an image with torch and transformers usually
# does not have, and capo's metadata, by which its entry points are found. The code itself is read from src/.
# Usage: benchmarks/pack_wheels.sh FOLDER [PACKAGE...]
set -eu
folder=$1
shift
python=${PYTHON:-python3}
version=${PYTHON_VERSION:-3.12}
packages="diffusers importlib_metadata lazy-importer pydantic pydantic_core annotated-types typing-inspection
    beartype ftfy wcwidth"
cd "$(dirname "$0")/.."
platforms=""
for glibc in 2_28 2_27 2_17; do platforms="$platforms --platform manylinux_${glibc}_x86_64"; done
# shellcheck disable=SC2086
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" --constraint constraints.txt \
    --python-version "$version" --implementation cp $platforms --platform manylinux2014_x86_64 \
    $packages "$@"
built=$(mktemp -d)
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$built" .
"$python" -m zipfile -e "$built"/capo_diffusion-*.whl "$built"
rm -rf "$folder"/capo_diffusion-*.dist-info
mv "$built"/capo_diffusion-*.dist-info "$folder"
rm -rf "$built"
du -sh "$folder"

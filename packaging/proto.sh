#!/bin/sh
# Writes the Python modules for proto/ into a directory (mortalgpu/rpc/pb unless another is named), from scratch.
# The generator is grpcio-tools of the development dependencies; PYTHON chooses the interpreter that has it.
set -eu
cd "$(dirname "$0")/.."
out=${1:-mortalgpu/rpc/pb}
rm -rf "$out"
mkdir -p "$out"
# shellcheck disable=SC2046  # file names in proto/ have no blanks
"${PYTHON:-python3}" -m grpc_tools.protoc -I proto --python_out="$out" --pyi_out="$out" $(find proto -name '*.proto' | sort)
find "$out" -type d -exec touch '{}/__init__.py' \;
printf '"""What the generator makes of proto/ (packaging/proto.sh writes this directory from scratch; never edit it)."""\n' >"$out/__init__.py"

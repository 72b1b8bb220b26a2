#!/usr/bin/env bash
# Builds the harness's own programs:
#   benchmarks/tools/build.sh FOLDER
set -euo pipefail

readonly folder=${1:?usage: benchmarks/tools/build.sh FOLDER}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
compile=("${CXX:-g++}" -std=c++20 -O2 -Wall -Wextra -pthread)

mkdir -p "$folder"
"${compile[@]}" "$here/paced_server.cc" -o "$folder/paced-server"
"${compile[@]}" -shared -fPIC "$here/socket_client.cc" -o "$folder/libsocket-client.so"

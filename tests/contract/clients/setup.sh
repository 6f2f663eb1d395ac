#!/bin/sh
# Makes target/contract-clients-venv with the pinned clients; does nothing when it is up to date.
set -eu
cd "$(dirname "$0")/../../.."
wanted=tests/contract/requirements-clients.txt
venv=target/contract-clients-venv
if [ -f "$venv/installed.txt" ] && cmp -s "$wanted" "$venv/installed.txt"; then
    exit 0
fi
command -v python3 >/dev/null || { echo "setup.sh: python3 is missing; install it (Debian: python3 python3-venv)" >&2; exit 1; }
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "setup.sh: Python 3.10 or newer is needed" >&2; exit 1; }
mkdir -p target
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
cp "$wanted" "$venv/installed.txt"

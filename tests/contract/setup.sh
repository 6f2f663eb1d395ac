#!/bin/sh
# Makes the Python environment of one part of the contract tests, target/contract-PART-venv, or does nothing when it is as
# requirements-PART.txt says.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
part=${1:?which part: template, clients or functions}
venv=$here/../../target/contract-$part-venv
wanted=$here/requirements-$part.txt
made=$venv/made-from.txt

if cmp -s "$wanted" "$made"; then
    exit 0
fi
if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "missing: Python 3.10 or newer with venv, which the contract tests need" >&2
    echo "get it with: sudo apt-get install python3-venv" >&2
    exit 1
fi
echo "making target/contract-$part-venv"
mkdir -p "$(dirname "$venv")"
python3 -m venv --clear "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
# Written last, so that an installation cut short is made again.
cp "$wanted" "$made"

#!/bin/sh
# Makes the virtual environment given as $1 with Taskyard and everything its tests need.
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Taskyard needs Python 3.10 or newer; \`$python\` is $("$python" -V 2>&1). Name another: make setup PYTHON=python3.12" >&2
    exit 2
}
if [ ! -x "$venv/bin/uv" ]; then
    # --without-pip is 50 times faster, but a Python without ensurepip can make only that; uv comes through the host's pip.
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
fi
"$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --editable '.[all]' --group dev

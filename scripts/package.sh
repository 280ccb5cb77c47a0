#!/bin/sh
# Build the source archive and the wheel in dist/, check their metadata, and try the wheel as a user would: installed
# without extras into an environment of its own. Then aeon's adapter, in that environment: aeon needs an older NumPy than
# the one pinned in constraints.txt, so the tests in .venv skip it.
# --link-torch: the new environment borrows .venv's torch, and nothing else, by a link: installing it takes half a minute.
set -eu
cd "$(dirname "$0")/.."

python=$PWD/.venv/bin/python
rm -rf dist
"$python" -m build --no-isolation --outdir dist . >/dev/null
"$python" -m twine check --strict dist/*

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$python" -m venv --without-pip "$fresh/venv"
install() {
    "$python" -m pip --python "$fresh/venv" install --quiet --disable-pip-version-check "$@"
}

if [ "${1:-}" = --link-torch ]; then
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir "$fresh/torch"
    ln -s "$packages"/torch "$packages"/torch-*.dist-info "$packages"/torchgen "$packages"/functorch "$fresh/torch/"
    echo "$fresh/torch" >"$("$fresh/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
fi

wheel=$(echo "$PWD"/dist/*.whl)
install --no-compile -c constraints.txt "$wheel"
cd "$fresh"  # so that nothing is imported from the checkout
venv/bin/noisyrnn doctor
venv/bin/noisyrnn train --model noisy --dataset digits --epochs 2 --hidden-size 16 --output runs
test -s runs/*/model.safetensors
venv/bin/noisyrnn evaluate digits-noisy --strengths '{}' | grep "Clean: .* (model card: "
# Every trained model of the checkout is in the wheel, with its card.
venv/bin/python - "$OLDPWD"/src/noisyrnn/pretrained/*.md <<'END'
import pathlib, sys, noisyrnn

for path in map(pathlib.Path, sys.argv[1:]):
    name, seed = path.stem.rsplit("-seed", 1)
    noisyrnn.load_pretrained(name, seed=int(seed))
    assert noisyrnn.pretrained_models()[name][int(seed)].card == path.read_text(encoding="utf-8")
END

cd - >/dev/null
if install --no-compile -r scripts/aeon.txt; then
    cp -r tests/estimators "$fresh/tests"
    cd "$fresh"
    venv/bin/python -m pytest -q -p no:cacheprovider --rootdir . tests/test_aeon.py
else
    echo "The packages of scripts/aeon.txt could not be installed: aeon's adapter was not tested." >&2
fi

# Shared by the scripts: finds a Python, and keeps the project's .venv in step with pyproject.toml.
# Sourced, not run; sets `root` and `venv`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# Prints "milliseconds kind" of a Python: how long a small loop takes it, and "whole" or, if it cannot put pip
# into a venv by itself (Debian without python3-venv), "bare"; nothing if it is too old.
python_worth() {
    "$1" - 2>/dev/null <<'PYTHON' || true
import sys, time
if sys.version_info >= (3, 11):
    import venv
    try:
        import ensurepip
        kind = "whole"
    except ImportError:
        kind = "bare"

    def loop(text=b"a b c"):
        for i in range(20_000):
            text.split(b" "), {}.get(i)

    def took():
        start = time.process_time()
        loop()
        return time.process_time() - start

    print(round(min(took() for _ in range(15)) * 10_000), kind)
PYTHON
}

# Sets `python` to the quickest one, and `helper` if that needs another one's pip. How Python was built makes a
# fifth of the CPU that the proxy takes, so the quickest is worth some trouble.
find_python() {
    local name path worth best="" whole="" bare=""
    while read -r worth path; do
        best=${best:-$path}
        case $worth in
            *whole) whole=${whole:-$path} ;;
            *) bare=${bare:-$path} ;;
        esac
    done < <(
        for name in python3.13 python3.12 python3.11 python3; do
            for path in $(type -aP "$name" || true) "/usr/bin/$name"; do
                worth=$(python_worth "$path")
                [[ -z $worth ]] || printf '%s %s\n' "${worth/ /-}" "$path"
            done
        done | sort -n
    )
    if [[ -n $whole ]]; then
        python=$best helper=$whole
    elif [[ -n $bare ]]; then
        fail "$bare has no venv module; on Debian and Ubuntu: apt install python3-venv"
    else
        fail "no Python 3.11 or newer found; install one, such as: apt install python3 python3-venv"
    fi
}

make_venv() {
    local python helper
    find_python
    printf 'Making %s with %s …\n' "$venv" "$python" >&2
    if [[ $helper == "$python" ]]; then
        "$python" -m venv --clear "$venv" || fail "$python could not make $venv (its reason is above)"
    else
        "$python" -m venv --clear --without-pip "$venv" || fail "$python could not make $venv (its reason is above)"
        "$helper" -m pip --disable-pip-version-check --python "$venv/bin/python" install --quiet pip ||
            fail "pip could not install itself into $venv; does this machine reach a package index?"
    fi
}

# Changes with the interpreter, the project's place and pyproject.toml.
fingerprint() {
    "$venv/bin/python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys
root = sys.argv[1]
parts = [sys.version, sys.base_prefix, root, pathlib.Path(root, "pyproject.toml").read_text("utf-8")]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON
}

pip_install() {
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@" ||
        fail "pip could not install (its reason is above); does this machine reach a package index?"
}

# ensure_venv [dev]: makes .venv and installs the project, with the development group if asked for.
# Does nothing if that has been done already.
ensure_venv() {
    local group=${1:-} python stamp=$venv/.trackproxy-stamp wanted
    "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || make_venv
    wanted=$(fingerprint)
    case $(cat "$stamp" 2>/dev/null || true) in
        "$wanted dev") return ;;
        "$wanted ") [[ -n $group ]] || return 0 ;;
    esac
    printf 'Installing trackproxy into %s …\n' "$venv" >&2
    pip_install --editable "$root"
    if [[ -n $group ]]; then
        pip_install --upgrade 'pip>=25.1' # the first with --group
        pip_install --group "$root/pyproject.toml:$group"
    fi
    printf '%s %s\n' "$wanted" "$group" >"$stamp"
}

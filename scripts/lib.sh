# Shared by the scripts: finds a Python, and keeps the project's .venv in step with pyproject.toml.
# Sourced, not run; sets `root` and `venv`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# Says what a Python is good for: optimised, plain or bare (no venv); nothing if it is too old.
python_kind() {
    "$1" - 2>/dev/null <<'PYTHON' || true
import sys, sysconfig
if sys.version_info >= (3, 11):
    try:
        import ensurepip, venv
    except ImportError:
        print("bare")
    else:
        arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
        print("optimised" if "--enable-optimizations" in arguments else "plain")
PYTHON
}

# Prints the first optimised Python, else the first plain one.
find_python() {
    local name path plain="" bare=""
    for name in python3.13 python3.12 python3.11 python3; do
        for path in $(type -aP "$name" || true) "/usr/bin/$name"; do
            case $(python_kind "$path") in
                optimised) printf '%s\n' "$path"; return ;;
                plain) plain=${plain:-$path} ;;
                bare) bare=${bare:-$path} ;;
            esac
        done
    done
    if [[ -n $plain ]]; then
        printf '%s\n' "$plain"
    elif [[ -n $bare ]]; then
        fail "$bare has no venv module; on Debian and Ubuntu: apt install python3-venv"
    else
        fail "no Python 3.11 or newer found; install one, such as: apt install python3 python3-venv"
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
    case $(python_kind "$venv/bin/python") in
        optimised | plain) ;;
        *)
            python=$(find_python)
            printf 'Making %s with %s …\n' "$venv" "$python" >&2
            "$python" -m venv --clear "$venv" || fail "$python could not make $venv (its reason is above)"
            ;;
    esac
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

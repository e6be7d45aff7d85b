#!/bin/sh
# Makes everything ready: setup.sh run | dev   (called by the Makefile, from the root of the project)
#
# The virtual environment is made anew only when its Python is gone or the project was moved (its programs name
# their place), and filled only when pyproject.toml has changed. System packages are installed only where that
# needs no password; otherwise the one command to type is shown, and everything goes on without them. APT=no
# keeps it from installing any.
set -eu

want=$1
venv=.venv
say() { printf 'setup: %s\n' "$*" >&2; }

# One at a time; the lock ends with this process.
exec 9<"$0"
if command -v flock >/dev/null 2>&1; then flock 9; fi

# ── System packages ──────────────────────────────────────────────────────────────────────────────────────
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    [ "${APT:-yes}" != no ] && command -v apt-get >/dev/null 2>&1 &&
        { [ "$(id -u)" = 0 ] || sudo -n true >/dev/null 2>&1; }
}

no_cluster() { # Debian's package would make a database and start it: the tests want the programs alone
    as_root sh -c 'mkdir -p /etc/postgresql-common && [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf' || true
}

apt_install() { # true when all is installed
    say "installing with apt-get: $*"
    case " $* " in *" postgresql "*) no_cluster ;; esac
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { as_root apt-get update -qq >/dev/null 2>&1 &&
            as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -qq -y --no-install-recommends "$@" >/dev/null; }
}

command_for() { # the one command to type
    if command -v apt-get >/dev/null 2>&1; then
        echo "sudo apt-get install -y $*"
    elif command -v dnf >/dev/null 2>&1; then
        echo "sudo dnf install -y $*"
    elif command -v brew >/dev/null 2>&1; then
        echo "brew install $*"
    else
        echo "install $* with your system's package manager"
    fi
}

has() { # Debian keeps servers where an ordinary user's PATH does not look
    command -v "$1" >/dev/null 2>&1 || [ -x "${SBIN:-/usr/sbin}/$1" ] || [ -x "${SBIN:-/usr/local/sbin}/$1" ]
}

missing=
has tmux || missing="$missing tmux"
has mosquitto || missing="$missing mosquitto"
if [ "$want" = dev ]; then
    has mosquitto_pub || missing="$missing mosquitto-clients"
    has openssl || missing="$missing openssl"
    # The tests start a server of their own; Debian keeps it off the PATH.
    has postgres || ls "${PGLIB:-/usr/lib/postgresql}"/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
    has promtool || missing="$missing prometheus"
    { has node && has npm; } || missing="$missing nodejs npm" # the Claude Code CLI comes from npm
fi

# ── Python ───────────────────────────────────────────────────────────────────────────────────────────────
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

if ! "$venv/bin/python" -c "$new_enough" >/dev/null 2>&1 || [ "$(cat "$venv/.place" 2>/dev/null)" != "$PWD" ]; then
    python=
    seen=
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
            seen="$seen $name is $version;"
            if "$name" -c "$new_enough"; then
                python=$name
                break
            fi
        fi
    done
    if [ -z "$python" ]; then
        say "Pointsman needs Python 3.11 or later;${seen:- there is no python3 here.}"
        say "install one (on Debian 12, Ubuntu 24.04 and later: $(command_for python3 python3-venv)), or say which: make setup PYTHON=..."
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if may_install && apt_install "$package"; then :; else
            say "$python cannot make virtual environments here: $(command_for "$package")"
            exit 1
        fi
    fi
    say "making $venv with $python $version"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    pwd >"$venv/.place"
fi

# A stamp is as old as the pyproject.toml that it stands for.
pip() { PYTHONWARNINGS=ignore "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
stamp=$venv/.installed-$want
if ! cmp -s pyproject.toml "$stamp"; then
    say "installing Python packages (from pyproject.toml)"
    if [ "$want" = dev ]; then
        pip install -q --upgrade 'pip>=25.1' # the first with --group
        pip install -q -e . --group dev
        cp pyproject.toml "$venv/.installed-run"
    else
        pip install -q -e .
    fi
    cp pyproject.toml "$stamp"
fi

# ── System packages, again: what is missing is installed once, and told of each time ─────────────────────
if [ -n "$missing" ] && may_install && [ "$(cat "$venv/.apt-tried" 2>/dev/null)" != "$missing" ]; then
    # shellcheck disable=SC2086  # a list of words
    if apt_install $missing; then missing=; else printf '%s' "$missing" >"$venv/.apt-tried"; fi
fi
for package in $missing; do
    case $package in
    tmux) say "tmux is missing: no session can be started without it. Type:  $(command_for tmux)" ;;
    mosquitto) say "mosquitto is missing: going on with the built-in broker, which is slower. Type:  $(command_for mosquitto)" ;;
    *) say "$package is missing. Type:  $(command_for "$package")" ;;
    esac
done

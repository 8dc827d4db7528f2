# shellcheck shell=bash
# lib.sh: what the scripts of this folder share. It is sourced, never run.
#
#   root    the checkout
#   cache   what is built or fetched once and kept outside the checkout:
#           $NARFS_CACHE_DIR, or narfs/ in the user's cache folder

set -euo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${NARFS_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/narfs}
# Debian keeps mkfs and its kind out of a user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# The Go that is fetched where none is installed that can build narfs. With a
# new version, fetch_go needs its checksums too.
go_pinned=1.26.8

me=$(basename "$0")
say() { printf '%s: %s\n' "$me" "$*"; }
warn() { printf '%s: %s\n' "$me" "$*" >&2; }
die() {
	warn "$*"
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# usage prints the comment at the head of the running script.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# as_root COMMAND... runs a command as root, by sudo if need be.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif have sudo; then
		sudo -- "$@"
	else
		warn "needs root and there is no sudo: $*"
		return 1
	fi
}

# install_packages PACKAGE... installs Debian packages. What they would serve is
# not started, now or later: tests start their own.
install_packages() {
	have apt-get || die "needs the packages $* (or what your system calls them); only Debian's are installed by itself"
	local log=$cache/install.log
	mkdir -p "$cache"
	say "installing $* (log: $log)"
	as_root apt-get -q update >"$log" 2>&1 || warn "apt-get update failed; trying with the lists that are here"
	# Services ask this program, where there is one, whether they may start.
	local policy=/usr/sbin/policy-rc.d ours='' had_sshd='' code=0
	! have sshd || had_sshd=yes
	if [ ! -e $policy ]; then
		ours=yes
		printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
		as_root chmod 755 $policy
	fi
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >>"$log" 2>&1 || code=$?
	[ -z "$ours" ] || as_root rm -f $policy
	if [ -z "$had_sshd" ] && have sshd && have systemctl; then
		as_root systemctl -q disable ssh.service ssh.socket >>"$log" 2>&1 || true
	fi
	if [ $code != 0 ]; then
		tail -n 15 "$log" >&2
		die "cannot install $*"
	fi
}

# version_at_least HAVE WANT compares dotted versions.
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# go_version GO prints the version of a go command, such as 1.26.8, or nothing.
go_version() {
	GOTOOLCHAIN=local GOFLAGS='' "$1" env GOVERSION 2>/dev/null | sed -n 's/^go\([0-9.]*\).*/\1/p'
}

# use_go puts a Go that can build narfs first in PATH, fetching one if there is
# none (see fetch_go).
use_go() {
	local want old='' candidate version
	want=$(sed -n 's/^go //p' "$root/go.mod")
	for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$cache/go$go_pinned/bin/go" /usr/lib/go-*/bin/go; do
		[ -x "$candidate" ] || continue
		version=$(cd / && go_version "$candidate")
		[ -n "$version" ] || continue
		if version_at_least "$version" "$want"; then
			PATH=$(dirname "$candidate"):$PATH
			export PATH GOTOOLCHAIN=local
			return
		fi
		old=$candidate
	done
	fetch_go "$old"
	PATH=$cache/go$go_pinned/bin:$PATH
	export PATH GOTOOLCHAIN=local
}

# fetch_go OLD lets an older Go (Debian's package, installed here if OLD is
# empty) fetch the pinned one. Go's releases are modules, golang.org/toolchain,
# that any Go since 1.11 can download and check like other modules; only since
# 1.21 can it also run them, so what that does on first use is done here: mark
# the programs executable and give the go.mod files their names back.
fetch_go() {
	local old=$1 arch sum module json dir got new
	if [ -z "$old" ]; then
		install_packages golang-go ca-certificates
		old=$(command -v go) || die "golang-go is installed and there is still no go"
	fi
	case $(uname -s)-$(uname -m) in
	Linux-x86_64) arch=amd64 sum=h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM= ;;
	Linux-aarch64) arch=arm64 sum=h1:sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc= ;;
	*) die "needs Go $(sed -n 's/^go //p' "$root/go.mod") or newer; install it and try again" ;;
	esac
	module=golang.org/toolchain@v0.0.1-go$go_pinned.linux-$arch
	say "fetching $module with $old ($(cd / && go_version "$old"))"
	json=$(cd / && GOTOOLCHAIN=local GOFLAGS='' GO111MODULE=on GOWORK=off "$old" mod download -json "$module") || die "no Go: $json"
	dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p' <<<"$json")
	got=$(sed -n 's/^[[:space:]]*"Sum": "\(.*\)",*$/\1/p' <<<"$json")
	[ "$got" = "$sum" ] || die "the module $module has the checksum $got; want $sum"

	mkdir -p "$cache"
	new=$(mktemp -d "$cache/go.XXXXXX")
	cp -r "$dir/." "$new"
	chmod -R u+w "$new"
	chmod -R +x "$new/bin" "$new/pkg/tool"
	find "$new" -name _go.mod -execdir mv {} go.mod \;
	chmod 755 "$new"
	# Another script may have been faster; its copy is as good.
	mv -T "$new" "$cache/go$go_pinned" 2>/dev/null || rm -rf "$new"
}

# build_narfs FILE builds the static binary for this machine, or for the
# GOOS and GOARCH of the environment.
build_narfs() {
	(cd "$root" && CGO_ENABLED=0 go build -trimpath -o "$1" ./cmd/narfs)
}

# machine.sh ROOT BASE DIR NARFS SCRIPT [DIR...]: in a mount namespace of its own, makes ROOT a machine that has the
# programs of BASE, and in DIR and the further folders what is there; has NARFS mount its store on that machine's
# /nix/store, as nix-daemon at the socket where clients look for it; and runs a script there with DIR as its argument.
# shellcheck shell=sh

set -e
root=$1 base=$2 dir=$3 narfs=$4 script=$5
mount -t tmpfs none "$root"
for entry in bin etc lib lib32 lib64 sbin usr var; do
	if [ -L "$base/$entry" ]; then
		cp -a "$base/$entry" "$root/$entry"
	elif [ -d "$base/$entry" ]; then
		mkdir "$root/$entry"
		mount --rbind "$base/$entry" "$root/$entry"
	fi
done
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/root" "$root/nix/store" "$root$dir"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$dir" "$root$dir"
cp "$narfs" "$root/nix/nix-daemon"
chroot "$root" /nix/nix-daemon --state "$dir/state" --ready --mount /nix/store --allow-other >"$dir/daemon.log" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
until grep -q ready "$dir/daemon.log"; do
	kill -0 $daemon || { cat "$dir/daemon.log" >&2 && exit 3; }
	sleep 0.05
done
chroot "$root" env -i PATH=/usr/bin:/bin HOME="$dir" NIX_REMOTE=daemon NIX_CONF_DIR="$dir/etc" sh "$script" "$dir"

# commands.sh DIR: what people do with a store, each command between marks that tell its name and how it ended. What
# it needs it makes in DIR, where there are a key and a salt.
# shellcheck shell=sh

dir=$1
other=$dir/other
umask 022
cd "$dir" || exit

# t NAME COMMAND...
t() {
	printf '## %s\n' "$1"
	shift
	"$@" 2>"$dir/stderr"
	code=$?
	printf '\n## => %s\n' $code
	[ $code = 0 ] || sed 's/^/! /' "$dir/stderr" >&2
}

mkdir src src/empty
salt=$(cat salt)
echo hello >src/a
echo "$salt" >src/salt
ln -s a src/b
printf '#!/bin/sh\n' >src/run
chmod +x src/run
echo "world $salt" >file
cat >top.nix <<X
let
  dep = derivation {
    name = "dep"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > \$out" ]; outputs = [ "out" "dev" ];
    salt = "$salt";
  };
  fixed = derivation {
    name = "fixed.tar.gz"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo world > \$out" ];
    outputHash = "sha256-4lLhZ53yKXl1JD4nn9X+lAJ3J6FPS+AQYwF5UvYq4Ug="; outputHashMode = "flat"; outputHashAlgo = "sha256";
    salt = "$salt";
  };
in derivation {
  name = "top"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo \${dep} \${dep.dev} > \$out" fixed ];
  src = $dir/src; text = builtins.toFile "text" "hi \${$dir/src}";
}
X

# Add.
t add nix-store --add src
path=$(nix-store --add src)
t add-path nix store add-path src
t add-path-named nix store add-path --name other-name src
t add-file nix store add-file file
t add-fixed nix-store --add-fixed sha256 file
t add-fixed-recursive nix-store --add-fixed --recursive sha256 src
t add-fixed-sha1 nix-store --add-fixed sha1 file
t add-fixed-md5 nix-store --add-fixed --recursive md5 src
t add-nothing nix-store --add no-such-file
t print-fixed nix-store --print-fixed-path sha256 "$(nix-hash --flat --type sha256 file)" file
t instantiate nix-instantiate top.nix
drv=$(nix-instantiate top.nix)
t instantiate-again nix-instantiate top.nix
t eval nix-instantiate --eval --strict --expr "builtins.readFile $path/a"

# Look.
t info-json nix path-info --json "$path"
t info-json-closure nix path-info --json --closure-size -r "$drv"
t info-sizes nix path-info -r -s -S "$drv"
t info-absent nix path-info /nix/store/00000000000000000000000000000000-absent
t info-all nix path-info --all
t ls nix store ls -lR "$path"
t ls-json nix store ls --json -R "$path"
t cat nix store cat "$path/a"
t cat-absent nix store cat "$path/absent"
t dump-path nix store dump-path "$path"
t derivation nix derivation show -r "$drv"
t derivation-old nix show-derivation "$drv"
for query in --outputs --references --requisites --referrers --referrers-closure --deriver --tree --graph --graphml --hash \
	--size --roots --resolve '--binding text' '--binding absent' '--requisites --include-outputs' '--outputs --use-output'; do
	# shellcheck disable=SC2086 # two words are two
	t "query $query" nix-store --query $query "$drv"
	# shellcheck disable=SC2086
	t "query $query of a source" nix-store --query $query "$path"
done
t query-absent nix-store --query --references /nix/store/00000000000000000000000000000000-absent
t query-outside nix-store --query --references /etc/passwd
t print-env nix-store --print-env "$drv"
t check-validity nix-store --check-validity "$path" "$drv"
t check-validity-absent nix-store --check-validity /nix/store/00000000000000000000000000000000-absent
t realise-source nix-store --realise "$path"
t dry-run nix-store --realise --dry-run "$drv"
t why-depends nix why-depends --derivation "$drv" "$path"

# Verify and sign.
t verify nix-store --verify
t verify-contents nix-store --verify --check-contents
t verify-path nix-store --verify-path "$path"
t store-verify nix store verify --no-trust --all
t store-verify-sigs nix store verify --sigs-needed 1 --trusted-public-keys "$(cat public)" "$path" "$drv"
t sign nix store sign --key-file secret --recursive "$drv"
t sign-again nix store sign --key-file secret "$path"
t store-verify-signed nix store verify -r --sigs-needed 1 --trusted-public-keys "$(cat public)" "$drv"

# Export, import and logs.
# shellcheck disable=SC2046 # many words
nix-store --export $(nix-store --query --requisites "$drv") >export
t exported cksum <export
t log-absent nix log "$drv"
mkdir -p "$other/nix/var/log/nix/drvs/$(expr "$drv" : '/nix/store/\(..\)')"
echo 'it went well' >"$other/nix/var/log/nix/drvs/$(expr "$drv" : '/nix/store/\(..\)')/$(expr "$drv" : '/nix/store/..\(.*\)')"
t copy-log nix store copy-log --from "$other" "$drv"
t log nix log "$drv"
t read-log nix-store --read-log "$drv"

# Roots and garbage.
t root nix-store --add-root root --indirect --realise "$path"
t root-direct nix-store --add-root gone --realise "$path"
t root-link readlink root
t print-roots nix-store --gc --print-roots
t query-roots nix-store --query --roots "$path"
rm gone
t print-roots-removed nix-store --gc --print-roots
t print-live nix-store --gc --print-live
t print-dead nix-store --gc --print-dead
t delete-alive nix-store --delete "$path"
t delete-referred nix-store --delete "$(nix-store --query --references "$drv" | grep 'dep.drv$')"
t delete nix-store --delete "$drv"
t deleted nix-store --check-validity "$drv"
t store-delete nix store delete "$(nix store add-path --name deleted src)"
t gc-dry nix store gc --dry-run
t gc nix-store --gc
t info-all-after nix path-info --all
t import nix-store --import <export
t info-imported nix path-info --json -r "$drv"
t gc-limited nix-store --gc --max-freed 0
t info-all-limited nix path-info --all
rm root
t store-gc nix store gc
t empty nix path-info --all
t optimise nix-store --optimise
t store-optimise nix store optimise
t import-cut nix-store --import </dev/null
t import-garbage nix-store --import <file

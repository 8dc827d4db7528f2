package ssh_test

import (
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/ssh"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"ssh://host":                        "-x|-a|-4|-i|key|host|nix-store --serve --write",
		"ssh-ng://alice@host/":              "-x|-a|-4|-i|key|alice@host|nix-daemon --stdio",
		"ssh://alice@host:22?compress=true": "-x|-a|-4|-i|key|-p|22|-C|alice@host|nix-store --serve --write",
		"ssh://[::1]":                       "-x|-a|-4|-i|key|::1|nix-store --serve --write",
		"ssh://h?ssh-key=/k&remote-program=/a%20b/nix-store&remote-store=/x%27y&other=1": `-x|-a|-4|-i|key|-i|/k|h|'/a b/nix-store' --serve --write --store '/x'\''y'`,
	} {
		target, err := ssh.Parse(address)
		if got := strings.Join(target.Args(" -4 ", "-i", "key"), "|"); err != nil || got != want {
			t.Errorf("Parse(%q).Args = %s, %v; want %s", address, got, err, want)
		}
	}
	for _, address := range []string{
		"", "host", "http://host", "ssh://", "ssh://host/path", "ssh://-oProxyCommand=x", "ssh://-l@host", "ssh://a@-host",
		"ssh://host?remote-program=-oProxyCommand=x", "ssh://ho\nst", "ssh://host:port",
	} {
		if target, err := ssh.Parse(address); err == nil {
			t.Errorf("Parse(%q) has %q; want an error", address, target.Args(""))
		}
	}
}

// Package ssh knows the addresses of Nix stores behind ssh, and the command lines that lead there. It starts nothing.
package ssh

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Target is what an address names: ssh://alice@host:2222?remote-program=/usr/bin/nix-store for the serve protocol, ssh-ng://… for the worker
// protocol.
type Target struct {
	Worker  bool
	Host    string // without a user
	Port    string // "" for ssh's own
	user    string
	options []string
	command string // for the shell of the other side
}

// Is reports whether an address may be one for Parse.
func Is(address string) bool {
	return strings.HasPrefix(address, "ssh://") || strings.HasPrefix(address, "ssh-ng://")
}

// Parse takes an address apart, with the parameters that Nix has. Others are ignored, as Nix ignores those it does not know.
func Parse(address string) (t Target, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return t, fmt.Errorf("%q is not an address: %w", address, err)
	}
	t = Target{Worker: u.Scheme == "ssh-ng", Host: u.Hostname(), Port: u.Port(), user: u.User.Username()}
	if u.Scheme != "ssh" && !t.Worker || t.Host == "" || strings.Trim(u.Path, "/") != "" {
		return t, fmt.Errorf("%q is not %s://[USER@]HOST[:PORT]", address, u.Scheme)
	}
	// Ssh would take it for an option.
	if strings.HasPrefix(t.login(), "-") || strings.HasPrefix(t.Host, "-") {
		return t, fmt.Errorf("%q is not a host", t.login())
	}
	q := u.Query()
	if key := q.Get("ssh-key"); key != "" {
		t.options = append(t.options, "-i", key)
	}
	if q.Get("compress") == "true" {
		t.options = append(t.options, "-C")
	}
	program, flags := "nix-store", []string{"--serve", "--write"}
	if t.Worker {
		program, flags = "nix-daemon", []string{"--stdio"}
	}
	if p := q.Get("remote-program"); p != "" {
		program = p
	}
	// Ssh takes options also behind the host.
	if strings.HasPrefix(program, "-") {
		return t, fmt.Errorf("remote-program %q is not a program", program)
	}
	if store := q.Get("remote-store"); store != "" {
		flags = append(flags, "--store", store)
	}
	words := append([]string{program}, flags...)
	for i, word := range words {
		words[i] = quote(word)
	}
	t.command = strings.Join(words, " ")
	return t, nil
}

func (t *Target) login() string {
	if t.user == "" {
		return t.Host
	}
	return t.user + "@" + t.Host
}

// Args returns the arguments for ssh. Those of $NIX_SSHOPTS, and further ones, come before those that the address asks for: of some, the
// first counts.
func (t *Target) Args(nixSSHOpts string, more ...string) []string {
	args := slices.Concat([]string{"-x", "-a"}, strings.Fields(nixSSHOpts), more)
	if t.Port != "" {
		args = append(args, "-p", t.Port)
	}
	return slices.Concat(args, t.options, []string{t.login(), t.command})
}

// quote makes one word of a text, for any Unix shell.
func quote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+=:@%,", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

package sandbox

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Profile returns what macOS's sandbox-exec is to allow a builder. Paths must be free of symbolic links, since the
// system compares them as it resolves them: /private/tmp and not /tmp. What can be read is listed for a sandboxed
// builder, while another one is only kept from making programs set-user-id. isDir tells folders, below which all is
// meant, from files.
func Profile(s Spec, isDir func(path string) bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("(version 1)")
	if !s.Sandboxed {
		line("(allow default)")
		line("(deny file-write-setugid)")
		return b.String()
	}
	line("(deny default)")
	line("(deny file-write-setugid)")
	// Processes, and what they share among themselves.
	for _, what := range []string{"process-fork", "sysctl-read", "ipc-posix*", "ipc-sysv*", "system-socket"} {
		line("(allow %s)", what)
	}
	line("(allow signal (target same-sandbox))")
	line(`(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))`)

	allow := func(what string, filters ...string) { line("(allow %s %s)", what, strings.Join(filters, " ")) }
	literal := func(paths ...string) (filters []string) {
		for _, p := range paths {
			filters = append(filters, "(literal "+quote(p)+")")
		}
		return filters
	}
	below := func(path string) string { return "(subpath " + quote(path) + ")" }
	filter := func(path string) string {
		if isDir(path) {
			return below(path)
		}
		return literal(path)[0]
	}

	// Devices, terminals, and what the system's own libraries look for.
	allow("file*", literal("/dev/null", "/dev/random", "/dev/urandom", "/dev/zero", "/dev/tty", "/dev/ptmx",
		"/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/dtracehelper")...)
	allow("file*", below("/dev/fd"), `(regex #"^/dev/pty[a-z]+")`, `(regex #"^/dev/ttys[0-9]+")`)
	allow("file-read*", literal("/System/Library/CoreServices/SystemVersion.plist",
		"/System/Library/CoreServices/SystemVersionCompat.plist", "/private/var/select/sh")...)
	allow("file-read*", below("/usr/share/zoneinfo"), below("/usr/share/locale"),
		below("/Library/Apple/usr/libexec/oah"), below("/System/Library/Apple/usr/libexec/oah")) // Rosetta
	allow("file-read-metadata", literal("/dev", "/etc", "/var", "/tmp", "/private/var/tmp")...)

	// Its own files. Sockets in its folder for scratch are its own too.
	above := map[string]bool{"/": true}
	ancestry := func(path string) {
		for p := filepath.Dir(path); p != "/" && p != "."; p = filepath.Dir(p) {
			above[p] = true
		}
	}
	allow("file* process-exec network-outbound network-inbound", below(s.BuildDir))
	allow("file* process-exec", below(s.Outputs))
	ancestry(s.BuildDir)
	ancestry(s.Outputs)
	for _, name := range s.Inputs {
		path := filepath.Join(s.StoreDir, name)
		allow("file-read* process-exec", filter(path))
		ancestry(path)
	}
	for _, bind := range s.Binds {
		what := "file-read* file-write* process-exec"
		if bind.ReadOnly {
			what = "file-read* process-exec"
		}
		allow(what, filter(bind.Source))
		ancestry(bind.Source)
	}
	// realpath(3) reads all folders on the way.
	allow("file-read*", literal(slices.Sorted(maps.Keys(above))...)...)

	if s.Network {
		line("(allow network* (local ip) (remote ip))")
		allow("file-read-metadata", literal("/etc/resolv.conf", "/etc/hosts")...)
		allow("file-read*", literal("/private/etc/resolv.conf", "/private/etc/hosts", "/private/etc/services",
			"/private/var/run/resolv.conf")...)
		line(`(allow network-outbound (remote unix-socket (path-literal "/private/var/run/mDNSResponder")))`)
		for _, name := range []string{"com.apple.SystemConfiguration.DNSConfiguration", "com.apple.trustd", "com.apple.trustd.agent"} {
			line("(allow mach-lookup (global-name %s))", quote(name))
		}
	}
	return b.String()
}

// quote writes a string of the profile's language, which is a Scheme.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

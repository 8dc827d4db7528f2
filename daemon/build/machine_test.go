package build_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/build"
)

func TestParseMachines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	plain := func(store string) build.Machine {
		return build.Machine{Store: store, Systems: []string{"here"}, MaxJobs: 1, Speed: 1}
	}
	hostKey := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 root@host"
	full := build.Machine{
		Store: "ssh-ng://nix@scratchy", Systems: []string{"i686-linux", "x86_64-linux"}, Key: "/root/.ssh/id", MaxJobs: 8, Speed: 2.5,
		Features: []string{"benchmark", "kvm"}, Mandatory: []string{"big"}, HostKey: hostKey,
	}
	fullText := "ssh-ng://nix@scratchy x86_64-linux,i686-linux,x86_64-linux /root/.ssh/id 8 2.5 kvm,benchmark big " +
		base64.StdEncoding.EncodeToString([]byte(hostKey+"\n"))
	three := file("three", "# none ; either\n  a@scratchy ; itchy  # b\n\n ;;; \n ; ;\nssh://poochie\n")
	for _, test := range []struct {
		text string
		want []build.Machine
	}{
		{"", nil},
		{" \n # host\n", nil},
		{"nix@scratchy", []build.Machine{plain("ssh://nix@scratchy")}},
		{"scratchy:2222 - - - - - - -", []build.Machine{plain("ssh://scratchy:2222")}},
		{"ssh://scratchy - - - 0", []build.Machine{plain("ssh://scratchy")}},
		{"/a/store;auto;daemon;local?root=x;host?compress=true", []build.Machine{
			plain("/a/store"), plain("auto"), plain("daemon"), plain("local?root=x"), plain("ssh://host?compress=true"),
		}},
		{fullText, []build.Machine{full}},
		{strings.ReplaceAll(fullText, " ", "\t") + " more is ignored", []build.Machine{full}},
		{"one;two\nthree", []build.Machine{plain("ssh://one"), plain("ssh://two"), plain("ssh://three")}},
		{"@/nonexistent; one", []build.Machine{plain("ssh://one")}},
		{"@ " + three + " ; one", []build.Machine{plain("ssh://a@scratchy"), plain("ssh://itchy"), plain("ssh://poochie"), plain("ssh://one")}},
		{"@" + file("outer", "@"+three), []build.Machine{plain("ssh://a@scratchy"), plain("ssh://itchy"), plain("ssh://poochie")}},
		{"@" + file("empty", ""), nil},
	} {
		got, err := build.ParseMachines(test.text, "here")
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("ParseMachines(%q): %v (-want +got):\n%s", test.text, err, diff)
		}
	}
	self := filepath.Join(dir, "self")
	file("self", "@"+self)
	for text, want := range map[string]string{
		"a\x00b":                              "it has control characters",
		"-":                                   "builders:1: bad machine specification '-': there is no address",
		"a - - eight":                         `"eight" is not a number of jobs`,
		"a - - -1":                            `"-1" is not a number of jobs`,
		"a - - 8 three":                       `"three" is not a speed factor`,
		"a - - 8 NaN":                         `"NaN" is not a speed factor`,
		"a - - 8 inf":                         `"inf" is not a speed factor`,
		"a - - 8 -3":                          "speed factor must be >= 0",
		"a - - 8 3 - - BAD_BASE64":            `"BAD_BASE64" is not a host key in base 64`,
		"a - - 8 3 - - YQpi":                  "the host key has several lines",
		"\na;b - - x":                         "builders:2: bad machine specification 'b - - x'",
		"@" + file("bad", "a\n\nb - - 1 x\n"): "builders:1: " + filepath.Join(dir, "bad") + ":3: bad machine specification 'b - - 1 x'",
		"@" + dir:                             "is no file",
		"@/dev/zero":                          "is no file",
		"@" + self:                            "is one file too many",
		"@" + file("long", strings.Repeat("#", 1<<20+1)): "longer than 1048576 bytes",
		strings.Repeat("a;", 5000):                       "more than 4096 machines",
	} {
		if _, err := build.ParseMachines(text, "here"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseMachines(%.40q): %.200v; want %q", text, err, want)
		}
	}
}

// Whatever is read without an error makes sense, and can be chosen.
func FuzzParseMachines(f *testing.F) {
	for _, text := range []string{
		"ssh://a x86_64-linux,i686-linux /key 2 1.5 kvm,big nixos-test c3NoLWVkMjU1MTkgQQ==", "a;b # c\n@/nonexistent", "- - -", "a - - 1 1e400", "?;auto", "a\x00b",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "@") {
			return // of this machine's files nothing is known
		}
		machines, err := build.ParseMachines(text, "here")
		if err != nil {
			return
		}
		for _, m := range machines {
			if m.Store == "" || len(m.Systems) == 0 || m.MaxJobs < 0 || m.Speed < 0 || m.Speed != m.Speed || strings.ContainsAny(m.HostKey+m.Store, "\n\x00") {
				t.Errorf("ParseMachines(%q) has %+v", text, m)
			}
			one := []build.Machine{m}
			if got, _ := build.Best(one, m.Systems[0], append(m.Features, m.Mandatory...), nil, nil); (got == nil) != (m.MaxJobs == 0) {
				t.Errorf("%+v is not taken for what it has", m)
			}
		}
	})
}

func TestBest(t *testing.T) {
	t.Parallel()
	machines, err := build.ParseMachines(`slow linux - 4
fast linux - 4 2
kvm linux,arm - 1 4 kvm
big linux - 2 1 kvm big
mac darwin
none linux - 0 9`, "here")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		system, features string
		running          string // "HOST N …"
		troubles         string
		want             string
		suitable         bool
	}{
		{"linux", "", "", "", "kvm", true}, // the fastest of those that have nothing to do
		{"linux", "", "kvm 1", "", "fast", true},
		{"linux", "", "kvm 1 fast 1", "", "slow", true},
		{"linux", "", "kvm 1 fast 1 slow 1", "", "fast", true}, // 0.5 a speed against 1
		{"linux", "", "kvm 1 fast 2 slow 1", "", "fast", true}, // as much to do: the faster one
		{"linux", "", "kvm 1 fast 3 slow 1", "", "slow", true},
		{"linux", "", "kvm 1 fast 4 slow 4", "", "", true}, // all busy
		{"linux", "", "kvm 1", "fast", "slow", true},
		{"linux", "", "", "slow fast kvm", "", false}, // big is for those only who require that
		{"linux", "kvm", "", "", "kvm", true},
		{"linux", "kvm", "kvm 1", "", "", true},
		{"linux", "big", "", "", "big", true},
		{"linux", "big kvm", "big 1", "", "big", true},
		{"linux", "other", "", "", "", false},
		{"arm", "", "", "", "kvm", true},
		{"darwin", "", "", "", "mac", true},
		{"darwin", "kvm", "", "", "", false},
		{"mips", "", "", "", "", false},
		{"builtin", "", "kvm 1 fast 1 slow 1", "", "mac", true},
	} {
		running := map[string]int{}
		words := strings.Fields(test.running)
		for i := 0; i < len(words); i += 2 {
			running["ssh://"+words[i]] = int(words[i+1][0] - '0')
		}
		var troubles []string
		for host := range strings.FieldsSeq(test.troubles) {
			troubles = append(troubles, "ssh://"+host)
		}
		got, suitable := build.Best(machines, test.system, strings.Fields(test.features), troubles, running)
		name := ""
		if got != nil {
			name = strings.TrimPrefix(got.Store, "ssh://")
		}
		if name != test.want || suitable != test.suitable {
			t.Errorf("%+v: %q, %v", test, name, suitable)
		}
	}
}

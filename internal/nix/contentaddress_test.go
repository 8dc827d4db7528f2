package nix_test

import (
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

// mustHash parses a hash with its algorithm.
func mustHash(tb testing.TB, s string) nix.Hash {
	tb.Helper()
	h, err := nix.ParseHash(s, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func TestContentAddress(t *testing.T) {
	const sha256 = "sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq"
	const sha1 = "sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm"
	tests := []struct {
		text string
		want nix.ContentAddress
	}{
		{"", nix.ContentAddress{}},
		{"text:" + sha256, nix.ContentAddress{Method: nix.MethodText, Hash: mustHash(t, sha256)}},
		{"fixed:" + sha256, nix.ContentAddress{Method: nix.MethodFlat, Hash: mustHash(t, sha256)}},
		{"fixed:" + sha1, nix.ContentAddress{Method: nix.MethodFlat, Hash: mustHash(t, sha1)}},
		{"fixed:r:" + sha256, nix.ContentAddress{Method: nix.MethodNAR, Hash: mustHash(t, sha256)}},
		{"fixed:r:" + sha1, nix.ContentAddress{Method: nix.MethodNAR, Hash: mustHash(t, sha1)}},
		{"fixed:git:" + sha1, nix.ContentAddress{Method: nix.MethodGit, Hash: mustHash(t, sha1)}},
	}
	for _, tt := range tests {
		got, err := nix.ParseContentAddress(tt.text)
		if got != tt.want || err != nil {
			t.Errorf("ParseContentAddress(%q) = %v, %v; want %v", tt.text, got, err, tt.want)
		}
		if got.String() != tt.text || got.IsZero() != (tt.text == "") {
			t.Errorf("ParseContentAddress(%q).String() = %q, IsZero() = %v", tt.text, got, got.IsZero())
		}
	}
	hex := "fixed:r:sha256:" + mustHash(t, sha256).Base16()
	if got, err := nix.ParseContentAddress(hex); got != tests[4].want || err != nil {
		t.Errorf("ParseContentAddress(%q) = %v, %v; want %v", hex, got, err, tests[4].want)
	}
	for _, s := range []string{
		" ", "text", "text:", "fixed:", "fixed:r:", sha256, "flat:" + sha256, "text:" + sha1, "text:r:" + sha256, "fixed:R:" + sha256,
		"fixed:r:git:" + sha1, "fixed:git:md5:4425hx5d1mc9y39llj4k4nm55i", "fixed:" + strings.TrimPrefix(sha256, "sha256:"),
		"fixed:r:sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=", "fixed:" + sha256 + " ",
	} {
		if got, err := nix.ParseContentAddress(s); err == nil {
			t.Errorf("ParseContentAddress(%q) = %v; want an error", s, got)
		}
	}
}

func TestMethod(t *testing.T) {
	for _, name := range []string{"text", "flat", "nar", "git"} {
		if m, err := nix.ParseMethod(name); m.String() != name || err != nil {
			t.Errorf("ParseMethod(%q) = %v, %v", name, m, err)
		}
	}
	for _, name := range []string{"", "recursive", "NAR"} {
		if m, err := nix.ParseMethod(name); err == nil {
			t.Errorf("ParseMethod(%q) = %v; want an error", name, m)
		}
	}
}

// Paths that Nix 2.8 printed. Where the content is not said it is "hello\n", in a file f, or in a NAR of it.
func TestMakePathFromCA(t *testing.T) {
	const (
		flat   = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
		sha512 = "sha512:e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629"
	)
	tests := []struct {
		how  string
		dir  nix.StoreDir
		name string
		ca   string
		refs string
		self bool
		want string
	}{
		{"nix-store --add f", "", "f", "fixed:r:sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw", "", false, "xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f"},
		{"nix-store --add-fixed --recursive sha256 d", "", "d", "fixed:r:sha256:1icb2zqnx3l4df0k8yn99bby9c8c888w9w5ai9ra5a7cha0kcwv6", "", false, "yazx0fx6dfwrrqn71w3zi2qdpgwdl8zc-d"},
		{"nix store add-path --name dir d", "", "dir", "fixed:r:sha256:1icb2zqnx3l4df0k8yn99bby9c8c888w9w5ai9ra5a7cha0kcwv6", "", false, "58kv2jlrni9iljdyqr3z4kzvxv67zg2d-dir"},
		{"nix store add-file --name hello f", "", "hello", "fixed:" + flat, "", false, "8zv8i345w2xn27jrxj4cyjc6x3b4am1q-hello"},
		{"nix-store --add-fixed sha256 f", "", "f", "fixed:" + flat, "", false, "1p9q0bz6f22dyxh4lw8xs08p4201vyq4-f"},
		{"nix-store --add-fixed sha1 f", "", "f", "fixed:sha1:f572d396fae9206628714fb2ce00f72e94f2258f", "", false, "pbqmppvgnnyqxagz7bnmwfdfvr3h43f2-f"},
		{"nix-store --add-fixed sha512 f", "", "f", "fixed:" + sha512, "", false, "73j0b3a4s7j9abkll8kb61zam2n0cmmn-f"},
		{"nix-store --add-fixed --recursive md5 f", "", "f", "fixed:r:md5:d3ea68e810bc7f9297024c01b858679e", "", false, "9hcvjx6md70b79ffrd52lwwff7qzj79r-f"},
		{"nix-store --print-fixed-path md5", "", "name", "fixed:md5:b1946ac92492d2347c6235b4d2611184", "", false, "fm16ank1d4dk0dpgsr7gddc63j14nymv-name"},
		{"the same --recursive", "", "name", "fixed:r:md5:b1946ac92492d2347c6235b4d2611184", "", false, "q64dq43z21mjfhimy77man6lc8vp25az-name"},
		{"nix-store --print-fixed-path --recursive sha512", "", "name", "fixed:r:" + sha512, "", false, "mf1j5bz47zfziciwg35ic7mm7mrzv22r-name"},
		{"NIX_STORE_DIR=/opt/store nix-store --print-fixed-path sha256", "/opt/store", "name", "fixed:" + flat, "", false, "vh15sl0x8v37vy3cirq4z2y1lx8gygwn-name"},
		{"the same --recursive", "/opt/store", "name", "fixed:r:" + flat, "", false, "dyzwhrq8h3l5f8ai34lxyz3a4sl8vlhv-name"},
		{"all characters", "", "x?=+_-.Z9", "fixed:r:" + flat, "", false, "rsla8z1jvjalzlhis9sbccr6ifrbilmx-x?=+_-.Z9"},
		{`builtins.toFile "t.txt" "hello"`, "", "t.txt", "text:sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic", "", false, "9p0nl625gm5mli8h2xfsgma0zz31g9yc-t.txt"},
		{`builtins.toFile "u.txt" "see ${t.txt}"`, "", "u.txt", "text:sha256:0jjd7ix6vbzznh97x68fhr8vm8bnrcaavxfapwq1cxdmcya850kb", "9p0nl625gm5mli8h2xfsgma0zz31g9yc-t.txt", false, "47ls4iq8gb6sscnlc4agvmxk6nlrfpni-u.txt"},
		{
			"nix store make-content-addressed, order and number of references do not matter", "", "app",
			"fixed:r:sha256:0fil1sfal1dnskd78gim5s2ml97m7569hbi5lpn1idsvj5yqkw08",
			"zxib3jyspw82vm4x33wqsd3xmby3hjlh-lib-1.0-dev 434fxlickvzf4mwrz3hd6i0k0grkvcgk-note q19x77rp0p65jhrprc7pnlli5d21dmns-lib-1.0 434fxlickvzf4mwrz3hd6i0k0grkvcgk-note",
			true, "gnjz7x8ygk390pzx6r2k1812q57qp3rf-app",
		},
	}
	for _, tt := range tests {
		ca, err := nix.ParseContentAddress(tt.ca)
		if err != nil {
			t.Fatal(err)
		}
		var refs []nix.StorePath
		for base := range strings.FieldsSeq(tt.refs) {
			refs = append(refs, mustPath(t, base))
		}
		dir := tt.dir
		if dir == "" {
			dir = nix.DefaultStoreDir
		}
		if got, err := nix.MakePathFromCA(dir, tt.name, ca, refs, tt.self); got.BaseName() != tt.want || err != nil {
			t.Errorf("%s: MakePathFromCA(%q, %q, %q, %q, %v) = %v, %v; want %s", tt.how, dir, tt.name, tt.ca, tt.refs, tt.self, got, err, tt.want)
		}
	}
}

func TestMakePathErrors(t *testing.T) {
	flat := mustHash(t, "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")
	md5 := mustHash(t, "md5:b1946ac92492d2347c6235b4d2611184")
	refs := []nix.StorePath{mustPath(t, hashPart+"-foo")}
	tests := []struct {
		name string
		ca   nix.ContentAddress
		refs []nix.StorePath
		self bool
		want string
	}{
		{"n", nix.ContentAddress{}, nil, false, "no content address"},
		{"n", nix.ContentAddress{Method: nix.MethodNAR}, nil, false, "no content address"},
		{"", nix.ContentAddress{Method: nix.MethodNAR, Hash: flat}, nil, false, "must not be empty"},
		{"a/b", nix.ContentAddress{Method: nix.MethodFlat, Hash: flat}, nil, false, "illegal character"},
		{"n", nix.ContentAddress{Method: nix.MethodFlat, Hash: flat}, refs, false, "not allowed to refer"},
		{"n", nix.ContentAddress{Method: nix.MethodFlat, Hash: flat}, nil, true, "not allowed to refer"},
		{"n", nix.ContentAddress{Method: nix.MethodNAR, Hash: md5}, refs, false, "not allowed to refer"},
		{"n", nix.ContentAddress{Method: nix.MethodText, Hash: flat}, nil, true, "cannot refer to itself"},
		{"n", nix.ContentAddress{Method: nix.MethodText, Hash: md5}, nil, false, "needs sha256"},
		{"n", nix.ContentAddress{Method: nix.MethodGit, Hash: md5}, nil, false, "needs sha1 or sha256"},
	}
	for _, tt := range tests {
		got, err := nix.MakePathFromCA(nix.DefaultStoreDir, tt.name, tt.ca, tt.refs, tt.self)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("MakePathFromCA(%q, %v, %v, %v) = %v, %v; want an error with %q", tt.name, tt.ca, tt.refs, tt.self, got, err, tt.want)
		}
	}
}

package nix_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

func TestKeys(t *testing.T) {
	files := nix28(t)
	for _, name := range []string{"cache.example-1", "other-2"} {
		text := files[name+".secret"]
		secret, err := nix.ParseSecretKey(text)
		if err != nil {
			t.Fatal(err)
		}
		public, err := nix.ParsePublicKey(files[name+".public"])
		if err != nil {
			t.Fatal(err)
		}
		if got := secret.Export(); got != strings.TrimSpace(text) {
			t.Errorf("Export() = %q; want %q", got, text)
		}
		if got, want := public.String(), strings.TrimSpace(files[name+".public"]); got != want {
			t.Errorf("PublicKey.String() = %q; want %q", got, want)
		}
		if got := secret.Public(); got != public {
			t.Errorf("Public() = %v; want %v", got, public)
		}
		if secret.Name() != name || public.Name() != name {
			t.Errorf("Name() = %q and %q; want %q", secret.Name(), public.Name(), name)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if got := fmt.Sprintf(verb, secret); got != name+":(secret)" {
				t.Errorf("Sprintf(%q, secret key) = %q; want the name only", verb, got)
			}
		}
	}
}

func TestSignAndVerify(t *testing.T) {
	secret, err := nix.GenerateSecretKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := nix.ParseSecretKey(secret.Export() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := nix.ParseSignature(again.Sign("text").String())
	if err != nil {
		t.Fatal(err)
	}
	if sig != secret.Sign("text") {
		t.Errorf("ParseSignature(Sign().String()) = %v; want %v", sig, secret.Sign("text"))
	}
	public := secret.Public()
	sameName, err := nix.GenerateSecretKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	renamed := sig
	renamed.KeyName = "k-2"
	flipped := sig
	flipped.Data[10] ^= 1
	for _, tt := range []struct {
		what, text string
		key        nix.PublicKey
		sig        nix.Signature
		want       bool
	}{
		{"good", "text", public, sig, true},
		{"another text", "Text", public, sig, false},
		{"another key of this name", "text", sameName.Public(), sig, false},
		{"another name", "text", public, renamed, false},
		{"flipped bit", "text", public, flipped, false},
		{"no signature", "text", public, nix.Signature{}, false},
		{"no key", "text", nix.PublicKey{}, nix.Signature{}, false},
	} {
		if got := tt.key.Verify(tt.text, tt.sig); got != tt.want {
			t.Errorf("%s: Verify() = %v; want %v", tt.what, got, tt.want)
		}
	}
}

func TestParseKeysErrors(t *testing.T) {
	secret, err := nix.GenerateSecretKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	sig := secret.Sign("text").String()
	public := secret.Public().String()
	broken := func(good string) []string {
		_, data, _ := strings.Cut(good, ":")
		return []string{
			"", "k", "k:", ":", ":" + data, data, "k:" + data[1:], "k:" + data + "=", "k:" + data + data, "k: " + data, "k:\n" + data,
			"k:" + data[:8] + "\n" + data[8:], "k\n:" + data, "k k:" + data, "k\x00:" + data, "k:k:" + data, "k:" + strings.TrimRight(data, "="),
		}
	}
	for _, s := range append(broken(sig), public, sig+"\n", " "+sig) { // a secret key looks like a signature
		if got, err := nix.ParseSignature(s); err == nil {
			t.Errorf("ParseSignature(%q) = %v; want an error", s, got)
		}
	}
	for _, s := range append(broken(public), sig, secret.Export()) {
		if got, err := nix.ParsePublicKey(s); err == nil {
			t.Errorf("ParsePublicKey(%q) = %v; want an error", s, got)
		}
	}
	// The signature has a secret key's length, but its halves do not belong together.
	for _, s := range append(broken(secret.Export()), sig, public) {
		if got, err := nix.ParseSecretKey(s); err == nil {
			t.Errorf("ParseSecretKey(%q) = %v; want an error", s, got)
		} else if _, data, _ := strings.Cut(s, ":"); len(data) > 8 && strings.Contains(err.Error(), data[:8]) {
			t.Errorf("ParseSecretKey(%q) = %v, which shows the secret", s, err)
		}
	}
	for _, name := range []string{"", "a:b", "a b", "a\nb", "\x7f"} {
		if got, err := nix.GenerateSecretKey(name); err == nil {
			t.Errorf("GenerateSecretKey(%q) = %v; want an error", name, got)
		}
	}
}
